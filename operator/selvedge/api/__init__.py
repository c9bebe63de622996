"""The custom resources as frozen models, from which CRDs and reference are generated."""
