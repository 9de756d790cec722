"""Networks, published ports, and who may use which port of the host."""
