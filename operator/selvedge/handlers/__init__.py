"""The only part that knows Kopf: settings, registration, and the way from the watch to the work queue."""
