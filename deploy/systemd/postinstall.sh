#!/bin/sh
# The service is not started: it needs a model and a text first, which /etc/fedattn/node.env names.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers fedattn.conf
	chgrp fedattn /etc/fedattn/node.env
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	/usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/90-fedattn.conf || true # in a container the host decides
	if [ -n "$2" ]; then # an older version was here
		systemctl try-restart fedattn.service
	fi
fi
