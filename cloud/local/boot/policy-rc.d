#!/bin/sh
# Packages may start their services here, also if the host's do not.
exit 0
