"""``mien repository``: the versions of a model repository, kept in S3-compatible storage too."""
