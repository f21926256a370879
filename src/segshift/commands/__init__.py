"""What each command of the command line does. torch is imported only by one that needs it."""
