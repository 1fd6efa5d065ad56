"""What people click: a web console with a Playground, Monitoring and Configuration for every Deployment on a cluster.

Its packages are an extra: `pip install ray-canary[console]`.
"""
