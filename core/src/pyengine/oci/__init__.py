"""The OCI specifications as the engine speaks them: runtime specs, image manifests, references."""
