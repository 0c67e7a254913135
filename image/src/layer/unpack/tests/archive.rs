//! Writes archives that no honest tool writes.

/// An archive under construction; setters change the last entry.
#[derive(Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
    last: usize,
    /// What `@` at the start of a name or target stands for.
    pub(super) home: String,
}

impl Tar {
    pub(super) fn header(&mut self, kind: char, name: &str, size: u64) -> &mut Self {
        let name = self.expand(name);
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[156] = u8::try_from(kind).unwrap();
        self.last = self.bytes.len();
        self.bytes.extend(block);
        self.number(124, 12, size).mode(0o644).owner(0, 0).time(1)
    }

    pub(super) fn raw(&mut self, kind: char, name: &str, body: &[u8]) -> &mut Self {
        self.header(kind, name, body.len() as u64);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(&mut self, name: &str, body: &[u8]) -> &mut Self {
        self.raw('0', name, body)
    }

    pub(super) fn dir(&mut self, name: &str) -> &mut Self {
        self.header('5', name, 0).mode(0o755)
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.header('2', name, 0).link(target)
    }

    pub(super) fn hard_link(&mut self, name: &str, target: &str) -> &mut Self {
        self.header('1', name, 0).link(target)
    }

    pub(super) fn device(&mut self, name: &str, kind: char, major: u64, minor: u64) -> &mut Self {
        self.header(kind, name, 0).number(329, 8, major).number(337, 8, minor)
    }

    pub(super) fn mode(&mut self, mode: u64) -> &mut Self {
        self.number(100, 8, mode)
    }

    pub(super) fn owner(&mut self, uid: u64, gid: u64) -> &mut Self {
        self.number(108, 8, uid).number(116, 8, gid)
    }

    pub(super) fn time(&mut self, time: u64) -> &mut Self {
        self.number(136, 12, time)
    }

    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[self.last + at..self.last + at + bytes.len()].copy_from_slice(bytes);
        self.seal()
    }

    /// The archive without an end mark.
    pub(super) fn open(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    pub(super) fn done(&self) -> Vec<u8> {
        [self.open(), vec![0; 1024]].concat()
    }

    fn link(&mut self, target: &str) -> &mut Self {
        let target = self.expand(target);
        self.patch(157, target.as_bytes())
    }

    fn expand(&self, name: &str) -> String {
        name.strip_prefix('@')
            .map_or_else(|| name.to_owned(), |rest| format!("{}{rest}", self.home))
    }

    /// Octal if it fits, else base 256.
    fn number(&mut self, at: usize, width: usize, value: u64) -> &mut Self {
        let octal = format!("{value:0w$o}\0", w = width - 1);
        if octal.len() == width {
            return self.patch(at, octal.as_bytes());
        }
        let mut field = vec![0; width];
        field[0] = 0x80;
        let bytes = value.to_be_bytes();
        let tail = bytes.len().min(width - 1);
        field[width - tail..].copy_from_slice(&bytes[8 - tail..]);
        self.patch(at, &field)
    }

    fn seal(&mut self) -> &mut Self {
        let block = &mut self.bytes[self.last..self.last + 512];
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }
}

/// PAX records.
pub(super) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|n| n.to_string().len() + rest == *n).unwrap();
        body.extend(format!("{length} {key}=").as_bytes());
        body.extend(*value);
        body.push(b'\n');
    }
    body
}

type Build = fn(&mut Tar) -> &mut Tar;

/// Archives by name, whether they unpack at all, and how they are written.
pub(super) fn hostile() -> Vec<(&'static str, bool, Build)> {
    let mut all: Vec<(&str, bool, Build)> = Vec::new();
    all.extend(links());
    all.extend(hard_links());
    all.extend(whiteouts());
    all.extend(headers());
    all.extend(numbers());
    all
}

fn links() -> Vec<(&'static str, bool, Build)> {
    vec![
        ("file above the root", true, |t| t.file("../../outside/file", b"x")),
        ("absolute file", true, |t| t.file("@/outside/file", b"x").mode(0o777)),
        ("dots in the middle", true, |t| t.file("a/../../outside/file", b"x")),
        ("through an absolute link", true, |t| t.symlink("l", "@/outside").file("l/file", b"x")),
        ("through a relative link", true, |t| t.symlink("l", "../outside").file("l/file", b"x")),
        ("through a chain of links", true, |t| {
            t.symlink("a", "b")
                .symlink("b", "c/..")
                .symlink("c", "../outside/dir")
                .file("a/file", b"x")
        }),
        ("through a link in a link's target", true, |t| {
            t.dir("d/")
                .symlink("d/up", "..")
                .symlink("l", "d/up/d/up/../outside")
                .file("l/file", b"x")
        }),
        ("over a link to a file", true, |t| {
            t.symlink("x", "@/outside/file").file("x", b"x").mode(0o777)
        }),
        ("directory over a link", true, |t| {
            t.symlink("x", "@/outside/dir").dir("x/").mode(0o777).owner(9, 9).file("x/f", b"")
        }),
        ("directory replaced by a link", true, |t| {
            t.dir("d/")
                .file("d/f", b"")
                .symlink("d", "@/outside")
                .file("d/file", b"x")
                .dir("d/dir/")
        }),
        ("node through a link", true, |t| {
            t.symlink("d", "@/outside").device("d/null", '3', 1, 3).raw('6', "d/pipe", b"")
        }),
        ("times through a link", true, |t| t.dir("d/").time(1).symlink("d", "@/outside/dir")),
    ]
}

fn hard_links() -> Vec<(&'static str, bool, Build)> {
    vec![
        ("hard link to an absolute name", true, |t| {
            t.hard_link("h", "@/outside/file").file("h", b"x").mode(0o777)
        }),
        ("hard link above the root", true, |t| t.hard_link("h", "../outside/file")),
        ("hard link through a link", true, |t| {
            t.symlink("l", "@/outside").hard_link("h", "l/file").file("h", b"x")
        }),
        ("hard link to a link, then through it", true, |t| {
            t.symlink("l", "@/outside/file").hard_link("h", "l").file("h", b"x").mode(0o777)
        }),
        ("hard link to a directory", false, |t| t.dir("d/").hard_link("h", "d")),
        ("hard link to the root", false, |t| t.hard_link("h", "/")),
        ("hard link to itself", true, |t| t.hard_link("h", "h")),
        ("links in a circle", false, |t| {
            t.symlink("a", "b/x").symlink("b", "a/x").file("a/f", b"")
        }),
        ("file below a file", false, |t| t.file("a", b"").file("a/b", b"")),
        ("link without a target", false, |t| t.symlink("a", "")),
        ("root as a file", false, |t| t.file("..", b"x")),
        ("root as a link", false, |t| t.symlink("./", "@/outside")),
    ]
}

fn whiteouts() -> Vec<(&'static str, bool, Build)> {
    vec![
        ("whiteout of nothing", false, |t| t.file("a/.wh.", b"")),
        ("whiteout of the directory", false, |t| t.file("a/.wh..", b"")),
        ("whiteout of the parent", false, |t| t.file("a/.wh...", b"")),
        ("whiteout of a whiteout", false, |t| t.file(".wh..wh.x", b"")),
        ("file in a whiteout", false, |t| t.file(".wh.a/b", b"")),
        ("hard link to a whiteout", false, |t| t.file("x", b"").hard_link("h", ".wh.x")),
        ("whiteout through a link", true, |t| t.symlink("l", "@/outside").file("l/.wh.file", b"")),
        ("opaque mark through a link", true, |t| {
            t.symlink("l", "@/outside").file("l/.wh..wh..opq", b"")
        }),
        ("opaque mark above the root", true, |t| t.file("../../outside/.wh..wh..opq", b"")),
        ("whiteout with a slash in its PAX name", true, |t| {
            t.raw('x', "", &pax(&[("path", b".wh.a/../../../outside/.wh.file")])).file("f", b"")
        }),
    ]
}

fn headers() -> Vec<(&'static str, bool, Build)> {
    vec![
        ("PAX name above the root", true, |t| {
            t.raw('x', "", &pax(&[("path", b"../../outside/file")])).file("f", b"x")
        }),
        ("PAX target above the root", true, |t| {
            t.raw('x', "", &pax(&[("linkpath", b"../../outside/file")])).hard_link("h", "f")
        }),
        ("GNU name above the root", true, |t| {
            t.raw('L', "././@LongLink", b"../../outside/file\0").file("f", b"x")
        }),
        ("zero byte in a PAX name", false, |t| {
            t.raw('x', "", &pax(&[("path", b"a\0b")])).file("f", b"x")
        }),
        ("PAX size beyond the end", false, |t| {
            t.raw('x', "", &pax(&[("size", b"999999999999")])).file("f", b"x")
        }),
        ("PAX negative size", false, |t| t.raw('x', "", &pax(&[("size", b"-1")])).file("f", b"x")),
        ("PAX huge owner", false, |t| {
            t.raw('x', "", &pax(&[("uid", b"4294967296")])).file("f", b"x")
        }),
    ]
}

fn numbers() -> Vec<(&'static str, bool, Build)> {
    vec![
        ("owner that means none", false, |t| t.file("f", b"").owner(0xffff_ffff, 0)),
        ("size of four exbibytes", false, |t| t.header('0', "f", 1 << 62)),
        ("long name of four gibibytes", false, |t| t.header('L', "", 4 << 30)),
        ("PAX header of a gibibyte", false, |t| t.header('x', "", 1 << 30)),
        ("global header of a gibibyte", false, |t| t.header('g', "", 1 << 30)),
        ("headers without an entry", false, |t| {
            for _ in 0..100 {
                t.raw('x', "", &pax(&[("path", b"x")]));
            }
            t
        }),
        ("negative size", false, |t| t.file("f", b"").patch(124, &[0xff; 12])),
        ("size that is no number", false, |t| t.file("f", b"").patch(124, b"12x")),
        ("wrong checksum", false, |t| {
            t.file("f", b"");
            let at = t.last;
            t.bytes[at] = b'g';
            t
        }),
        ("unknown type", false, |t| t.raw('Z', "f", b"")),
        ("device number too large", false, |t| t.device("d", '3', 1 << 32, 3)),
        ("device minor too large", false, |t| t.device("d", '4', 8, 1 << 20)),
        ("device with a negative number", false, |t| {
            t.device("d", '3', 1, 3).patch(329, &[0xff; 8])
        }),
        ("component too long", false, |t| {
            t.raw('L', "", "x".repeat(256).as_bytes()).file("f", b"")
        }),
        ("too deep", false, |t| t.raw('L', "", "a/".repeat(1100).as_bytes()).file("f", b"")),
        ("sparse map beyond the file", false, |t| {
            let map = pax(&[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.realsize", b"10"),
                ("GNU.sparse.map", b"0,5,8,9"),
            ]);
            t.raw('x', "", &map).file("f", b"0123456789")
        }),
        ("sparse map in the body that is none", false, |t| {
            let records = pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"1"),
            ]);
            t.raw('x', "", &records).file("f", &[b'9'; 600])
        }),
        ("attributes beyond what a file has", false, |t| {
            t.raw('x', "", &pax(&[("SCHILY.xattr.user.big", &[b'v'; 70_000])])).file("f", b"")
        }),
    ]
}
