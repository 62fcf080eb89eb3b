"""How a call is answered: which requests it needs, which server gets them, and what is sent again.

Nothing here waits or does any I/O: `Client` and `AsyncClient` run the flows of this package, each in its own way (see
`flow`), and transports carry the requests.
"""
