# The socket that gapless passes is the only one.
bind_to_activated_sockets "only"
threads 1, 16
environment "production"
