"""The job gateway: teams submit jobs over HTTP, and it runs them on a shared cluster through Ray Jobs.

`spec` describes a job. `app` answers requests, and `ledger` records each event in an object store. `state` folds the
events, `queue` decides what starts and what is preempted, `controller` applies the decisions through `executor`.
`client` is what programs and the commands use.
"""
