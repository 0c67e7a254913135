//! Makes an archive's entries below a root, by fd.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{self as rfs, AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use sys::confined::{Root, remove_tree};

use super::fixup::{Fixups, is_whiteout};
use super::limits::Budget;
use super::name::{self, Target};
use super::sparse::Sparse;
use super::tarball::{Archive, Entry, Kind};
use super::{LayerError, attributes};

/// overlayfs's mark for "nothing below shows through" (kernel, filesystems/overlayfs.rst).
const OPAQUE: &str = "trusted.overlay.opaque";
const BUFFER: usize = 128 << 10;
/// The kernel's device numbers: 12 bits of major, 20 of minor (linux/kdev_t.h).
const MAX_MAJOR: u64 = 0xfff;
const MAX_MINOR: u64 = 0xf_ffff;

/// A layer being made.
pub(super) struct Applier {
    root: Root,
    budget: Budget,
    fixups: Fixups,
    /// Times of directories, to be set once nothing is made in them any more.
    times: Vec<(PathBuf, (i64, u32))>,
    /// The directory of the last entry: archives list a directory's entries together.
    recent: Option<(PathBuf, Rc<OwnedFd>)>,
    buffer: Vec<u8>,
}

/// Where an entry goes.
struct Spot {
    dir: Rc<OwnedFd>,
    name: OsString,
    path: PathBuf,
}

impl Spot {
    fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn fail(&self, operation: &'static str) -> impl Fn(Errno) -> LayerError {
        move |e| LayerError::disk(operation, &self.path, e)
    }
}

impl Applier {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            budget: Budget::default(),
            fixups: Fixups::default(),
            times: Vec::new(),
            recent: None,
            buffer: vec![0; BUFFER],
        }
    }

    /// Makes one entry, whose body is read from the archive.
    pub(super) fn entry(&mut self, entry: &Entry, archive: &mut Archive) -> Result<(), LayerError> {
        self.budget.entry()?;
        match name::target(name::clean(&entry.name)?)? {
            Target::Whiteout(path) => self.whiteout(&path),
            Target::Opaque(path) => self.opaque(&path),
            Target::Entry(path) if path.as_os_str().is_empty() => self.own_root(entry),
            Target::Entry(path) => self.make(entry, &path, archive),
        }
    }

    /// Sets the directories' times, and hands over what only the layers below can answer.
    pub(super) fn finish(self) -> (Budget, Fixups) {
        for (path, time) in self.times.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let dir = self.root.open_with(path, flags, 0).ok();
            // A later entry may have put something else there; a directory's time is worth no error.
            dir.map(|dir| rfs::futimens(dir, &attributes::times(*time)).ok());
        }
        (self.budget, self.fixups)
    }

    fn make(
        &mut self,
        entry: &Entry,
        path: &Path,
        archive: &mut Archive,
    ) -> Result<(), LayerError> {
        let spot = self.spot(path)?;
        match &entry.kind {
            Kind::Directory => self.directory(entry, &spot),
            Kind::File { sparse } => self.file(entry, sparse.as_ref(), &spot, archive),
            Kind::Symlink { target } => self.symlink(entry, target, &spot),
            Kind::HardLink { target } => self.hard_link(target, spot),
            Kind::Device { block, major, minor } => {
                if *major > MAX_MAJOR || *minor > MAX_MINOR {
                    return Err(LayerError::malformed(format!(
                        "a device with the impossible number {major}:{minor}"
                    )));
                }
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                // Both fit into 32 bits.
                let number = |n: u64| u32::try_from(n).unwrap_or(0);
                self.node(entry, kind, rfs::makedev(number(*major), number(*minor)), &spot)
            }
            Kind::Fifo => self.node(entry, FileType::Fifo, 0, &spot),
        }
    }

    /// The directory in which `path` goes, made if the archive only implies it.
    fn spot(&mut self, path: &Path) -> Result<Spot, LayerError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default().to_owned();
        if let Some((_, dir)) = self.recent.as_ref().filter(|(recent, _)| recent == parent) {
            return Ok(Spot { dir: Rc::clone(dir), name, path: path.to_owned() });
        }
        let made = self.root.make_dirs(parent, 0o755)?;
        self.imply(made.made)?;
        let dir = Rc::new(made.fd);
        self.recent = Some((parent.to_owned(), Rc::clone(&dir)));
        Ok(Spot { dir, name, path: path.to_owned() })
    }

    fn imply(&mut self, made: Vec<PathBuf>) -> Result<(), LayerError> {
        for path in made {
            self.budget.entry()?;
            if !self.budget.remember(path.as_os_str().len() + size_of::<PathBuf>()) {
                return Err(LayerError::malformed("it implies too many directories"));
            }
            self.fixups.implied.insert(path);
        }
        Ok(())
    }

    fn own_root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != Kind::Directory {
            return Err(LayerError::malformed("its root is not a directory"));
        }
        let root = self.root.open_dir(Path::new(""))?;
        attributes::set(root, entry, Path::new("/"))?;
        self.times.push((PathBuf::new(), entry.mtime));
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, spot: &Spot) -> Result<(), LayerError> {
        let mut hides = false;
        match rfs::mkdirat(spot.dir(), &spot.name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rfs::statat(spot.dir(), &spot.name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(spot.fail("stat"))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    // It replaces what a whiteout of this layer hides: nothing of that may show through.
                    hides = is_whiteout(&stat);
                    self.clear(spot)?;
                    rfs::mkdirat(spot.dir(), &spot.name, Mode::RWXU)
                        .map_err(spot.fail("make directory"))?;
                }
            }
            Err(e) => return Err(spot.fail("make directory")(e)),
        }
        let dir = open_dir(spot)?;
        if hides {
            set_opaque(&dir).map_err(spot.fail("mark"))?;
        }
        attributes::set(&dir, entry, &spot.path)?;
        self.fixups.implied.remove(&spot.path);
        if self.budget.remember(spot.path.as_os_str().len() + 48) {
            self.times.push((spot.path.clone(), entry.mtime));
        }
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        sparse: Option<&Sparse>,
        spot: &Spot,
        archive: &mut Archive,
    ) -> Result<(), LayerError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = self.replacing(spot, "create", |dir, name| rfs::openat(dir, name, flags, mode))?;
        let mut file = File::from(fd);
        match sparse {
            None => self.copy(archive, u64::MAX, &mut file, spot)?,
            Some(sparse) => {
                let fail = |e| LayerError::disk("write", &spot.path, e);
                for (offset, length) in &sparse.parts {
                    file.seek(SeekFrom::Start(*offset)).map_err(fail)?;
                    self.copy(archive, *length, &mut file, spot)?;
                }
                file.set_len(sparse.real_size).map_err(fail)?;
            }
        }
        attributes::set(&file, entry, &spot.path)
    }

    /// Copies the body, or `limit` bytes of it.
    fn copy(
        &mut self,
        archive: &mut Archive,
        mut limit: u64,
        file: &mut File,
        spot: &Spot,
    ) -> Result<(), LayerError> {
        while limit > 0 {
            let room = usize::try_from(limit).unwrap_or(usize::MAX).min(BUFFER);
            let length = archive
                .read(&mut self.buffer[..room])
                .map_err(|e| LayerError::disk("read", &spot.path, e))?;
            if length == 0 {
                // A body cut short is noticed when the next header is read.
                return Ok(());
            }
            file.write_all(&self.buffer[..length])
                .map_err(|e| LayerError::disk("write", &spot.path, e))?;
            self.budget.write(length as u64, file.as_fd()).map_err(spot.fail("write"))?;
            limit -= length as u64;
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8], spot: &Spot) -> Result<(), LayerError> {
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            return Err(LayerError::malformed(format!(
                "the link {:?} has an impossible target",
                spot.path
            )));
        }
        let target = OsString::from_vec(target.to_vec());
        self.replacing(spot, "link", |dir, name| rfs::symlinkat(&target, dir, name))?;
        self.dress(entry, spot)
    }

    fn node(
        &mut self,
        entry: &Entry,
        kind: FileType,
        device: u64,
        spot: &Spot,
    ) -> Result<(), LayerError> {
        let mode = Mode::from_raw_mode(entry.mode);
        self.replacing(spot, "make node", |dir, name| rfs::mknodat(dir, name, kind, mode, device))?;
        self.dress(entry, spot)?;
        // The umask took bits from the mode. The name was made above, in a directory nobody else can reach.
        rfs::chmodat(spot.dir(), &spot.name, mode, AtFlags::empty()).map_err(spot.fail("chmod"))
    }

    /// Owner and time of what cannot be opened safely.
    fn dress(&self, entry: &Entry, spot: &Spot) -> Result<(), LayerError> {
        let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rfs::chownat(spot.dir(), &spot.name, uid, gid, flags).map_err(spot.fail("chown"))?;
        rfs::utimensat(spot.dir(), &spot.name, &attributes::times(entry.mtime), flags)
            .map_err(spot.fail("set the time of"))
    }

    fn hard_link(&mut self, target: &[u8], spot: Spot) -> Result<(), LayerError> {
        let target = name::clean(target)?;
        let (Some(name), parent) = (target.file_name(), target.parent().unwrap_or(Path::new("")))
        else {
            return Err(LayerError::malformed(format!(
                "{:?} is a hard link to the root",
                spot.path
            )));
        };
        if let Target::Whiteout(_) | Target::Opaque(_) = name::target(target.clone())? {
            return Err(LayerError::malformed(format!(
                "{:?} is a hard link to a whiteout",
                spot.path
            )));
        }
        let dir = match self.root.open_with(parent, OFlags::PATH | OFlags::DIRECTORY, 0) {
            Ok(dir) => dir,
            Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => {
                return self.link_later(spot, target);
            }
            Err(error) => return Err(error.into()),
        };
        let source = match rfs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return self.link_later(spot, target),
            Ok(stat) if is_whiteout(&stat) => return self.link_later(spot, target),
            Ok(stat) => stat,
            Err(e) => return Err(spot.fail("stat the target of")(e)),
        };
        if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
            return Err(LayerError::malformed(format!(
                "{:?} is a hard link to a directory",
                spot.path
            )));
        }
        if let Ok(own) = rfs::statat(spot.dir(), &spot.name, AtFlags::SYMLINK_NOFOLLOW) {
            // The names are one file already; making room for the link would delete it.
            if (own.st_dev, own.st_ino) == (source.st_dev, source.st_ino) {
                return Ok(());
            }
        }
        self.replacing(&spot, "link", |to, link| {
            rfs::linkat(&dir, name, to, link, AtFlags::empty())
        })
    }

    /// The target is not in this layer (yet): whether it is in one below is seen once those are complete.
    fn link_later(&mut self, spot: Spot, target: PathBuf) -> Result<(), LayerError> {
        self.clear(&spot)?;
        if !self.budget.remember(spot.path.as_os_str().len() + target.as_os_str().len() + 48) {
            return Err(LayerError::malformed("it has too many hard links to lower layers"));
        }
        self.fixups.links.push((spot.path, target));
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), LayerError> {
        let spot = self.spot(path)?;
        match rfs::mknodat(spot.dir(), &spot.name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            // This layer has something of that name: a directory must not show what is below it, the rest never does.
            Err(Errno::EXIST) => match open_dir(&spot) {
                Ok(dir) => set_opaque(&dir).map_err(spot.fail("mark")),
                Err(_) => Ok(()),
            },
            Err(e) => Err(spot.fail("hide")(e)),
        }
    }

    fn opaque(&mut self, path: &Path) -> Result<(), LayerError> {
        let made = self.root.make_dirs(path, 0o755)?;
        self.imply(made.made)?;
        let dir = self.root.open_dir(path)?;
        set_opaque(&dir).map_err(|e| LayerError::disk("mark", path, e))
    }

    /// Does what fails if the name is taken, and makes room for it once: the last entry of a name wins.
    fn replacing<T>(
        &mut self,
        spot: &Spot,
        operation: &'static str,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match make(spot.dir(), &spot.name) {
            Err(Errno::EXIST) => {
                self.clear(spot)?;
                make(spot.dir(), &spot.name).map_err(spot.fail(operation))
            }
            other => other.map_err(spot.fail(operation)),
        }
    }

    fn clear(&mut self, spot: &Spot) -> Result<(), LayerError> {
        // The remembered directory may be the one that goes, or lie below it.
        self.recent = None;
        Ok(remove_tree(spot.dir(), &spot.name)?)
    }
}

fn open_dir(spot: &Spot) -> Result<OwnedFd, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat(spot.dir(), &spot.name, flags, Mode::empty()).map_err(spot.fail("open"))
}

fn set_opaque(dir: &OwnedFd) -> Result<(), Errno> {
    rfs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
}
