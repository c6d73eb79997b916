"""The VDSM driver: JSON-RPC 2.0 over STOMP 1.2 on TCP, plain or mutual TLS."""
