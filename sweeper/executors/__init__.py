"""Where runs are trained: in this process or in warm worker processes, behind submit, events, cancel."""
