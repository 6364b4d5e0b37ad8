#!/usr/bin/env python3
"""install.py PREEMPT LIBRARY PROGS CASE: the Debian package and the examples."""

import glob
import shutil

from tool import *

root = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))


USES = """
    #include <stdio.h>
    #include <preempt.h>
    int main(void)
    {
        puts(preempt_version ? preempt_version() : "none");
        return 0;
    }"""


def use_header(to):
    """preempt.pc serves to compile a program, which runs with the library and without."""
    library, pc = (glob.glob(os.path.join(to, p))[0] for p in ("usr/lib/*/libpreempt.so", "usr/lib/*/pkgconfig"))
    if not shutil.which("pkg-config"):
        return
    full = {**env, "PKG_CONFIG_LIBDIR": pc, "PKG_CONFIG_SYSROOT_DIR": to}

    def ask(*args):
        return subprocess.run(["pkg-config", *args, "preempt"], env=full, text=True, check=True, stdout=subprocess.PIPE).stdout.split()

    version = preempt("--version")[1].split()[-1]
    assert ask("--modversion") == [version] and ask("--libs") == [] and library.endswith(ask("--variable=preload")[0])
    flags = ask("--cflags")
    for i, more in enumerate((("-Wall", "-Werror"), ("-no-pie", "-fno-plt"), ("-x", "c++"))):
        if "c++" in more and not shutil.which("g++"):
            continue
        program = compiled(f"uses{i}", USES, *flags, *more) if "c++" not in more else os.path.join(tmp, "uses2")
        if "c++" in more:
            subprocess.run(["g++", "-Wall", "-Werror", *flags, write("uses.cc", USES), "-o", program], check=True)
        for preload, say in ("", "none"), (library, version):
            p = subprocess.run([program], env={**env, "LD_PRELOAD": preload}, text=True, stdout=subprocess.PIPE)
            assert p.returncode == 0 and p.stdout.strip() == say, (more, preload, p)


def install_and_remove(package):
    """dpkg installs it into an empty system, and takes all of it away again."""
    root_dir = os.path.join(tmp, "system")
    for d in ("updates", "info", "triggers"):
        os.makedirs(os.path.join(root_dir, "var/lib/dpkg", d))
    for f in ("status", "available"):
        open(os.path.join(root_dir, "var/lib/dpkg", f), "w").close()
    dpkg = ["dpkg", f"--root={root_dir}", "--force-not-root", "--force-depends", "--force-bad-path", "--force-script-chrootless"]

    def there():
        return [f for d, _, files in os.walk(os.path.join(root_dir, "usr")) for f in files]

    for action, some in (["-i", package], True), (["-P", "preempt"], False):
        p = subprocess.run(dpkg + action, env={**env, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}, text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert p.returncode == 0, p.stdout
        assert bool(there()) == some, (action, there())
        if some:  # as `preempt tables build --system` does
            os.makedirs(os.path.join(root_dir, "var/cache/preempt"))
            open(os.path.join(root_dir, "var/cache/preempt/aa.tab"), "w").close()
    assert os.listdir(os.path.join(root_dir, "var/cache")) == []
    assert "Package: preempt" not in read(os.path.join(root_dir, "var/lib/dpkg/status"))


def case_deb():
    """One command builds a package with everything in it; unpacked, its command finds its library."""
    for needed in ("dpkg-deb", "dpkg-shlibdeps", "dpkg-architecture", "meson"):
        if not shutil.which(needed):
            raise Skip("no " + needed)
    full = {**env, "DEBEMAIL": "nobody@lists.debian.org", "PATH": os.environ["PATH"]}
    p = subprocess.run([f"{root}/tools/deb.sh", f"{tmp}/deb"], env=full, text=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.returncode == 0, p.stderr[-2000:]
    package = p.stdout.strip()
    assert os.path.isfile(package) and package.endswith(".deb"), p.stdout
    to = os.path.join(tmp, "unpacked")
    subprocess.run(["dpkg-deb", "-x", package, to], check=True)
    for pattern in ("usr/bin/preempt", "usr/lib/*/libpreempt.so", "usr/lib/*/pkgconfig/preempt.pc", "usr/include/preempt.h",
                    "usr/share/man/man1/preempt.1.gz", "usr/share/man/man7/libpreempt.7.gz",
                    "usr/share/bash-completion/completions/preempt", "usr/share/doc/preempt/copyright"):
        assert len(glob.glob(os.path.join(to, pattern))) == 1, pattern
    field = subprocess.run(["dpkg-deb", "-f", package, "Depends"], text=True, check=True, stdout=subprocess.PIPE).stdout
    assert "libc6" in field and "libncursesw6" in field, field
    p = subprocess.run([f"{to}/usr/bin/preempt", "run", "--no-tables", "--", "sh", "-c", "echo $LD_PRELOAD"], env=env, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.returncode == 0 and p.stdout.strip() == glob.glob(f"{to}/usr/lib/*/libpreempt.so")[0] and not p.stderr, p
    for mode in ("stat", "top"):
        assert subprocess.run([f"{to}/usr/bin/preempt", "help", mode], env=env, stdout=subprocess.DEVNULL).returncode == 0
    use_header(to)
    install_and_remove(package)
    if shutil.which("lintian"):
        p = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", package], env={**full, "TMPDIR": tmp},
                           text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert p.returncode == 0, p.stdout


def case_systemd():
    """systemd accepts the drop-in."""
    if not shutil.which("systemd-analyze"):
        raise Skip("no systemd-analyze")
    write("t.service", "[Service]\nExecStart=/bin/true\n")
    os.mkdir(f"{tmp}/t.service.d")
    shutil.copy(f"{root}/examples/preempt.conf", f"{tmp}/t.service.d/")
    p = subprocess.run(["systemd-analyze", "verify", "--man=no", f"{tmp}/t.service"], env=env, text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    if p.returncode and "preempt.conf" not in p.stdout:
        raise Skip(f"systemd-analyze does not work here: {p.stdout[-200:]}")
    assert "preempt.conf" not in p.stdout, p.stdout
    # It would have complained.
    with open(f"{tmp}/t.service.d/preempt.conf", "a") as f:
        f.write("Enviroment=X=1\n")
    p = subprocess.run(["systemd-analyze", "verify", "--man=no", f"{tmp}/t.service"], env=env, text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    assert "Enviroment" in p.stdout, p.stdout


if __name__ == "__main__":
    main(globals())
