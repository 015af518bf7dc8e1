"""Other codebases, one file each: looked for where they are used, never required."""
