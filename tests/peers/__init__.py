"""Other queues behind the protocol of subjects, examined and compared: `python -m tests.peers`."""
