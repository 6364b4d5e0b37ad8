#!/bin/bash
# deb.sh [DIRECTORY]: build a Debian package of the library, the command, its manual and completion: DIRECTORY/preempt_VERSION_amd64.deb
# (default: build-deb). Prints its path. Needs dpkg-dev beside what the build needs. DEBFULLNAME and DEBEMAIL are the maintainer.
set -eu
cd "$(dirname "$0")/.."
top=${1:-build-deb}
mkdir -p "$top"
top=$(cd "$top" && pwd)
maintainer="${DEBFULLNAME:-libpreempt} <${DEBEMAIL:-root@localhost.localdomain}>"
build=$top/build root=$top/root
umask 022

for tool in meson dpkg-deb dpkg-shlibdeps dpkg-architecture; do
	command -v $tool >/dev/null || { echo "deb.sh: no $tool; install dpkg-dev and meson" >&2; exit 1; }
done
arch=$(dpkg-architecture -qDEB_HOST_ARCH)
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
[ -f "$build/build.ninja" ] || meson setup "$build" --prefix=/usr --libdir="lib/$triplet" --buildtype=debugoptimized \
	-Dtests=false -Dc_link_args=-Wl,-z,relro,-z,now >&2
meson compile -C "$build" >&2
rm -rf "$root"
DESTDIR=$root meson install -C "$build" --no-rebuild >&2
version=$(meson introspect --projectinfo "$build" | sed -n 's/.*"version": "\([^"]*\)".*/\1/p')

strip --strip-unneeded --remove-section=.comment "$root/usr/lib/$triplet/libpreempt.so"
strip --strip-all --remove-section=.comment "$root/usr/bin/preempt"
find "$root/usr/share/man" -name '*.[1-9]' -exec gzip -9n {} +
doc=$root/usr/share/doc/preempt
install -d "$doc/examples"
install -m 644 README.md "$doc/"
for f in examples/*; do
	install -m 644 "$f" "$doc/examples/"
done
date=$(git log -1 --format=%cD 2>/dev/null || date -R)
cat >"$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: libpreempt

Files: *
Copyright: 2026 The libpreempt authors
License: Apache-2.0
 On Debian systems, the full text of the Apache License, Version 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
END
printf 'preempt (%s) unstable; urgency=medium\n\n  * Built from the source tree.\n\n -- %s  %s\n' \
	"$version" "$maintainer" "$date" | gzip -9n >"$doc/changelog.gz"

chmod 644 "$root/usr/lib/$triplet/libpreempt.so"
# It is for LD_PRELOAD: nothing is linked with it, so it has no version in its name.
install -d "$root/usr/share/lintian/overrides"
printf 'preempt: package-name-doesnt-match-sonames *\npreempt: shared-library-lacks-version *\n' \
	>"$root/usr/share/lintian/overrides/preempt"

# What it needs, from its binaries.
mkdir -p "$top/shlibs/debian"
printf 'Source: preempt\n\nPackage: preempt\nArchitecture: any\n' >"$top/shlibs/debian/control"
depends=$(cd "$top/shlibs" && dpkg-shlibdeps -O "$root/usr/bin/preempt" "$root/usr/lib/$triplet/libpreempt.so" 2>/dev/null |
	sed -n 's/^shlibs:Depends=//p')
install -d "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: preempt
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -k -s --exclude=DEBIAN "$root" | cut -f1)
Depends: $depends
Section: utils
Priority: optional
Description: preemptive scheduling of the threads of unmodified programs
 A library for LD_PRELOAD that runs the threads of a program on a few virtual
 processors, as the Go run-time system does with goroutines: threads that hold
 locks are spared, threads that spin let others run, and a thread that computes
 for too long while others wait is stopped at a safe point. The command preempt
 runs programs with it, compares, watches and explains.
END
printf 'activate-noawait ldconfig\n' >"$root/DEBIAN/triggers"
# Tables for all users, which `preempt tables build --system` has made.
cat >"$root/DEBIAN/postrm" <<'END'
#!/bin/sh
set -e
case $1 in
remove | purge) rm -rf "$DPKG_ROOT/var/cache/preempt" ;;
esac
END
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
chmod -R u=rwX,go=rX "$root"
chmod 755 "$root/DEBIAN/postrm"
dpkg-deb --root-owner-group -Zxz --build "$root" "$top/preempt_${version}_$arch.deb" >&2
echo "$top/preempt_${version}_$arch.deb"
