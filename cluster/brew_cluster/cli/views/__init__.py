"""What commands print: training runs, the service, loss curves."""
