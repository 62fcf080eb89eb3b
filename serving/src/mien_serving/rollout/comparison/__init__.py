"""Compare two versions on the same faces: the faces, the answers, the figures, the report."""
