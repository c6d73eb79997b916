"""A whole cluster on one machine: `engine up`, `engine down` and `engine demo`.

Everything in it is a real process: a ZooKeeper server, engines under their supervisors, the API
under gunicorn, a simulated fleet on real sockets. All are children of one `up`, and end with it.
"""
