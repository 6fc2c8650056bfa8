"""What lies in the folder of a study's runs, who may write there, and how another terminal steers a sweep."""
