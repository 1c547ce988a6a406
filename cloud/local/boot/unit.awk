# Turns a systemd unit, with its drop-ins after it, into shell for "unit": each
# directive NAME=VALUE that matters becomes _NAME='VALUE', each list of commands a
# function of its name that gives every command to "run". Variables:
#
#     name  of the unit, without .service
#     host  name of the machine
#
# With mode=env it reads environment files instead, into exports.

function quoted(s) {
	gsub(/'/, "'\\''", s)
	gsub(/\001/, "$", s)
	return "'" s "'"
}

# One character of a C-like escape; what is none stays as it is.
function unescaped(c) {
	if (c == "n") return "\n"
	if (c == "t") return "\t"
	if (c == "s") return " "
	return index("\\\"'$ ", c) ? c : "\\" c
}

# Splits s as systemd does, into words[1..]: each a word of shell in which nothing
# but ${NAME}, and $NAME where it is a whole word, means anything to the shell. A $$
# is a dollar sign, kept as \001 until it is quoted.
function split_words(s,    i, c, n, in_quote, begun, plain, word, rest) {
	n = 0; in_quote = ""; begun = 0; plain = ""; word = ""
	for (i = 1; i <= length(s) + 1; i++) {
		c = substr(s, i, 1)
		rest = substr(s, i)
		if (i > length(s) || (in_quote == "" && c ~ /[ \t]/)) {
			if (word == "" && plain ~ /^\$[A-Za-z_][A-Za-z0-9_]*$/) words[++n] = "${" substr(plain, 2) "-}"
			else if (begun) words[++n] = plain == "" && word != "" ? word : word quoted(plain)
			begun = 0; plain = ""; word = ""
			continue
		}
		begun = 1
		if (c == "\\") {
			plain = plain unescaped(substr(s, ++i, 1))
		} else if (c == in_quote) {
			in_quote = ""
		} else if (in_quote == "" && (c == "\"" || c == "'")) {
			in_quote = c
		} else if (rest ~ /^\$\$/) {
			plain = plain "\001"
			i++
		} else if (match(rest, /^\$\{[A-Za-z_][A-Za-z0-9_]*\}/)) {
			word = word (plain == "" ? "" : quoted(plain)) "\"${" substr(rest, 3, RLENGTH - 3) "-}\""
			plain = ""
			i += RLENGTH - 1
		} else {
			plain = plain c
		}
	}
	return n
}

function command(key, value,    flags, n, i, line) {
	flags = ""
	while (value ~ /^[-@:+!]/) {
		flags = flags substr(value, 1, 1)
		value = substr(value, 2)
	}
	n = split_words(value)
	line = "\trun " quoted(flags)
	for (i = 1; i <= n; i++) {
		if (i == 2 && index(flags, "@")) continue # the name to run under
		line = line " " words[i]
	}
	commands[key] = commands[key] line " || return\n"
}

# A span such as "1min 30s" in seconds.
function seconds(s,    total, n, unit) {
	if (s == "infinity") return "infinity"
	total = 0
	while (match(s, /^[ \t]*[0-9.]+/)) {
		n = substr(s, 1, RLENGTH) + 0
		s = substr(s, RLENGTH + 1)
		match(s, /^[ \t]*[a-z]*/)
		unit = substr(s, 1, RLENGTH)
		gsub(/[ \t]/, "", unit)
		s = substr(s, RLENGTH + 1)
		total += n * (unit == "ms" ? 0.001 : unit ~ /^m(in.*)?$/ ? 60 : unit ~ /^h/ ? 3600 : unit ~ /^d/ ? 86400 : 1)
	}
	return total
}

function specified(s,    prefix, instance) {
	prefix = instance = name
	if (sub(/@.*/, "", prefix)) sub(/^[^@]*@/, "", instance); else instance = ""
	gsub(/%%/, "\001", s)
	gsub(/%n/, name ".service", s); gsub(/%N/, name, s); gsub(/%p/, prefix, s); gsub(/%[iI]/, instance, s)
	gsub(/%H/, host, s); gsub(/%t/, "/run", s); gsub(/%S/, "/var/lib", s); gsub(/%C/, "/var/cache", s)
	gsub(/%L/, "/var/log", s); gsub(/%E/, "/etc", s); gsub(/%h/, "/root", s); gsub(/%u/, "root", s)
	gsub(/\001/, "%", s)
	return s
}

function exported(assignment,    at) {
	at = index(assignment, "=")
	if (substr(assignment, 1, at - 1) !~ /^[A-Za-z_][A-Za-z0-9_]*$/) return ""
	return "export " substr(assignment, 1, at - 1) "=" quoted(substr(assignment, at + 1)) "\n"
}

# The text that a word of shell stands for, where no variable is in it.
function literal(word) {
	gsub(/'\\''/, "\001", word)
	gsub(/'/, "", word)
	gsub(/\001/, "'", word)
	return word
}

function directive(key, value,    n, i) {
	if (key ~ /^Exec(StartPre|Start|StartPost|Reload|Stop|StopPost)$/) {
		if (value == "") commands[key] = ""; else command(key, value)
	} else if (key == "Environment") {
		if (value == "") environment = ""
		gsub(/\$/, "$$", value) # an assignment is not expanded
		n = split_words(value)
		for (i = 1; i <= n; i++) environment = environment exported(literal(words[i]))
	} else if (key == "EnvironmentFile") {
		environment = value == "" ? "" : environment "\tenvironment_file " quoted(value) " || return\n"
	} else if (key ~ /^(WantedBy|RequiredBy|Alias|(Runtime|State|Cache|Logs|Configuration)Directory|AmbientCapabilities)$/) {
		values[key] = value == "" ? "" : values[key] " " value
	} else if (key ~ /Sec$|^StartLimitInterval$/) {
		sub(/^StartLimitInterval$/, "StartLimitIntervalSec", key)
		values[key] = seconds(value)
	} else if (key ~ /^(Description|Type|Restart|User|Group|WorkingDirectory|PIDFile|KillSignal|KillMode|RemainAfterExit|UMask|LimitNOFILE|StandardOutput|SuccessExitStatus|StartLimitBurst)$/) {
		values[key] = value
	}
}

mode == "env" {
	sub(/^[ \t]+/, "")
	if ($0 !~ /^[#;]/ && index($0, "=")) {
		value = substr($0, index($0, "=") + 1)
		sub(/[ \t\r]+$/, "", value)
		if (value ~ /^".*"$/ || value ~ /^'.*'$/) value = substr(value, 2, length(value) - 2)
		printf "%s", exported(substr($0, 1, index($0, "=")) value)
	}
	next
}

/^[ \t]*[#;]/ { next }

{
	sub(/\r$/, "")
	line = line $0
	if (line ~ /\\$/) {
		sub(/\\$/, " ", line)
		next
	}
	if (match(line, /^[ \t]*[A-Za-z]+[ \t]*=/)) {
		key = substr(line, 1, RLENGTH - 1)
		value = substr(line, RLENGTH + 1)
		gsub(/[ \t]/, "", key)
		gsub(/^[ \t]+|[ \t]+$/, "", value)
		directive(key, specified(value))
	}
	line = ""
}

END {
	if (mode == "env") exit
	for (key in values) printf "_%s=%s\n", key, quoted(values[key])
	printf "environment() {\n%s\t:\n}\n", environment
	n = split("ExecStartPre ExecStart ExecStartPost ExecReload ExecStop ExecStopPost", keys, " ")
	for (i = 1; i <= n; i++) {
		printf "%s() {\n%s\t:\n}\n", keys[i], commands[keys[i]]
		if (commands[keys[i]] != "") printf "_%s=yes\n", keys[i]
	}
}
