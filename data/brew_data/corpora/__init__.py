"""What training reads, by kind."""
