"""The name server that containers on user-defined networks see at 127.0.0.11.

``names`` knows who is called what, ``answers`` speaks DNS, ``servers`` listens inside the
containers' namespaces.
"""
