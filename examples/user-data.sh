#!/bin/sh
# Makes a new machine a web server that says which machine it is. A droplet runs this
# as root at its first boot; output goes to /var/log/cloud-init-output.log there.
#
# Whatever cannot be done ends it at once, and the machine then counts as failed.
set -eu

metadata() {
	curl -s --fail --retry 3 "http://169.254.169.254/metadata/v1/$1"
}

# Of its own variables, since an error inside a longer text would not end the script.
id=$(metadata id)
hostname=$(metadata hostname)
address=$(metadata interfaces/public/0/ipv4/address)

# A new droplet may still be at its first upgrade, which holds apt's lock.
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update
apt-get -q -o DPkg::Lock::Timeout=300 install -y nginx

mkdir -p /srv/www
cat >/srv/www/index.html <<EOF_PAGE
hostname:  $hostname
id:        $id
public IP: $address
EOF_PAGE

rm -f /etc/nginx/sites-enabled/*
cat >/etc/nginx/conf.d/www.conf <<'EOF_SITE'
server {
	listen 80 default_server;
	root /srv/www;
	types { }
	default_type text/plain;
}
EOF_SITE
nginx -t
systemctl enable nginx
systemctl restart nginx

# It has to serve what we think it does.
curl -s --fail --retry 5 --retry-connrefused http://127.0.0.1/ | grep -q "id: *$id\$"
