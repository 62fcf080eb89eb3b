"""The model repository: its layout, its files, its lock and the manifests in it; `sync` copies it to and from S3."""
