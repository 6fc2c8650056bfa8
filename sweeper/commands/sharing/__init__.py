"""What leaves the machine or is told to others: exported configs, folders for the Hub, notices of a sweep's end."""
