"""The figures of a study: each a function from what was read of it to a picture and its caption; knows no store."""
