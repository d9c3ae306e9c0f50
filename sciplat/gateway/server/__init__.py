"""The gateway's processes: the server, its proxy, and who keeps them alive."""
