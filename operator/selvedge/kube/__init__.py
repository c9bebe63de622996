"""The few Kubernetes calls that Kopf does not make."""
