"""The only package that speaks Ray: ingress, version hosts, and the cluster they run on."""
