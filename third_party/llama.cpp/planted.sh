# shellcheck shell=bash
# must_find WHAT PATTERN COMMAND...: a command that makes a mistake ends with the sanitizers' exit status, 23, and a report
# that the pattern matches, over all of its lines.
must_find() {
	local what=$1 pattern=$2 report status=0
	shift 2
	report=$("$@" 2>&1) || status=$?
	if ((status != 23)) || [[ ! ${report//$'\n'/ } =~ $pattern ]]; then
		printf '%s\n' "$report" "$what was planted and not found (exit status $status): the sanitizer does not work here" >&2
		exit 1
	fi
}
