#!/usr/bin/env bash
# The plugin in a real QGIS without windows, in a profile of its own: integrations/qgis/test.sh [LOG]
# Needs Debian's qgis and python3-qgis, and the programs of fctl in FCTL_BIN (default: .venv/bin).
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v qgis_process > /dev/null || { echo "skipped: there is no qgis_process (apt-get install qgis python3-qgis)"; exit 0; }
here=$PWD
# Debian's qgis_process hands its program an option (--noversioncheck) which that does not know.
qgis=$(command -v qgis_process.bin || command -v qgis_process)
FCTL_BIN=$(realpath "${FCTL_BIN:-.venv/bin}"); export FCTL_BIN
[ -x "$FCTL_BIN/fctl-run" ] || { echo "no fctl-run in $FCTL_BIN: make test, or set FCTL_BIN"; exit 1; }

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export HOME=$work/home XDG_RUNTIME_DIR=$work/run XDG_DATA_HOME=$work/home/.local/share XDG_CONFIG_HOME=$work/home/.config
export QT_QPA_PLATFORM=offscreen PYTHONDONTWRITEBYTECODE=1
plugins=$XDG_DATA_HOME/QGIS/QGIS3/profiles/default/python/plugins
mkdir -p "$plugins" "$XDG_CONFIG_HOME"; mkdir -m 700 "$XDG_RUNTIME_DIR"
cp -r integrations/qgis/fctl_qgis "$plugins/"
cp samples/dubai.tif "$work/"  # QGIS leaves statistics beside images
cd "$work"

ask() { echo; echo "\$ qgis_process $*" | sed "s#$here/##g; s#$work/##g"; "$qgis" "$@" 2>&1 | grep -v '^<string>\|^$\|^---' | sed "s#$here/##g; s#$work/##g"; }
fail() { echo "FAILED: $*"; exit 1; }

ask plugins enable fctl_qgis > /dev/null
ask list | grep -A3 '^fctl$' | tee listed
[ "$(grep -c 'fctl:\(segment\|export\|evaluate\)' listed)" = 3 ] || fail "the toolbox does not have the algorithms"

ask run fctl:segment --INPUT=dubai.tif --MASK=mask.tif --STATS=mask.csv
"$FCTL_BIN/fctl-run" dubai.tif --out direct/mask.tif --quiet
cmp mask.tif direct/mask.tif || fail "the mask is not that of fctl-run"
cmp mask.qml direct/mask.qml || fail "the style is not that of fctl-run"
echo "the mask has the bytes of that of fctl-run"

mkdir -p labelled/images labelled/masks
/usr/bin/python3 - <<'PYTHON' 2> /dev/null
from osgeo import gdal
for source, target in (("dubai.tif", "labelled/images/a.tif"), ("mask.tif", "labelled/masks/a.tif")):
    gdal.Translate(target, source, srcWin=[0, 0, 600, 600])
PYTHON
cat > labelled/dataset.json <<'JSON'
{"name": "a corner, labelled by the mask of the whole", "images": "images/*.tif", "masks": "masks/*.tif",
 "classes": [{"name": "building", "values": [0], "counted": true}, {"name": "land", "values": [1], "counted": true},
 {"name": "road", "values": [2], "counted": true}, {"name": "vegetation", "values": [3], "counted": true},
 {"name": "water", "values": [4], "counted": true}], "ignore": [], "threshold": null}
JSON
ask run fctl:evaluate --DATA=labelled --CONTEXTS=auto --CONTEXTS=exact --OUT=report | tee evaluated
grep -q 'MIOU:.9[0-9]' evaluated || fail "no score"
[ -s report/report.json ] || fail "no report"

ask run fctl:export --BUNDLE="$here/tests/data/tiny.fctl" --COLOURS=red=#102030 --OUT=copy.fctl
"$FCTL_BIN/fctl-export" "$here/tests/data/tiny.fctl" --colours red=#102030 --out direct/copy.fctl --quiet
diff -r copy.fctl direct/copy.fctl || fail "the bundle is not that of fctl-export"

failed=0; ask run fctl:segment --INPUT=dubai.tif --BUNDLE=gone.fctl --MASK=none.tif > refused || failed=1
tail -n 1 refused
wanted="gone.fctl: expected a bundle folder (NAME.fctl), found nothing; make one with fctl-export, or use 'default'"
[ "$failed" = 1 ] || fail "no failure"
[ "$(tail -n 1 refused)" = "$wanted" ] || fail "another line than fctl's"
[ ! -e none.tif ] || fail "a mask was left"

echo; /usr/bin/python3 "$here/integrations/qgis/check.py" "$plugins" "$work/dubai.tif" "$work" 2> "$work/noise" ||
	{ cat "$work/noise"; fail "check.py"; }
echo "all of it works in $("$qgis" --version 2> /dev/null | grep -o '^QGIS [0-9.]*' | head -1)"
