"""The command line: one thin command on each arrow of the data flow. Heavy imports wait inside the commands."""
