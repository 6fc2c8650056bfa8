"""The folder of a study's runs: what lies there, who may write there, and how another terminal steers a sweep."""
