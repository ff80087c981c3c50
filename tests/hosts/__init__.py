"""Several hosts: three servers, each a process of its own, behind the balancers whose configuration we ship."""
