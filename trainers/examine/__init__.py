"""What a model and a data set are, found out without weights and without torch: for who designs a study of them."""
