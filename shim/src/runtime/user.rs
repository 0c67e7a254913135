//! Whom a process runs as: names and memberships are what the image's own files say, numbers are strict.
//!
//! A number that does not fit is an error and never a name (CVE-2024-40635, CVE-2026-46680); the files are read
//! confined, regular and at most [`MAX_FILE`] bytes long (CVE-2025-4437).

use std::path::Path;

use crate::{Failure, FailureKind};
use sys::confined::Root;

use super::report::MAX_GROUPS;
use super::target;

/// Longest passwd or group file that is read.
const MAX_FILE: usize = 10 << 20;
/// Highest id: above it some programs see a negative number.
const MAX_ID: u32 = i32::MAX as u32;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Names or numbers, to be looked up.
    Named(Named),
    /// Numbers, as they are.
    Numbers(Identity),
}

/// A request in the form of an OCI image's `User`, with what CRI adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// `""`, `name`, `uid`, `name:group`, `uid:gid` and their mixtures.
    pub user: String,
    /// Replaces the group that `user` leads to.
    pub group: Option<u32>,
    /// On top of everything else.
    pub supplemental: Vec<u32>,
    /// The image's memberships do not count.
    pub strict: bool,
}

/// Numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The numbers, and what the image knows about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The numbers.
    pub identity: Identity,
    /// The home folder, if the image says one.
    pub home: Option<String>,
}

impl Request {
    /// Finds the numbers in the image at `root`.
    ///
    /// # Errors
    /// `InvalidArgument`: an unknown name, a number out of range, or files that cannot be read.
    pub fn resolve(&self, root: &Root) -> Result<Resolved, Failure> {
        let passwd = read(root, "/etc/passwd")?;
        let passwd = Passwd::new(&passwd);
        let identity = match self {
            Self::Numbers(identity) => {
                let mut identity = identity.clone();
                if !identity.groups.contains(&identity.gid) {
                    identity.groups.insert(0, identity.gid);
                }
                identity
            }
            Self::Named(named) => {
                let group = read(root, "/etc/group")?;
                named.resolve(&passwd, &group)?
            }
        };
        let too_many = identity.groups.len() > MAX_GROUPS;
        if too_many {
            return Err(invalid(&identity.uid.to_string(), "has too many groups"));
        }
        let home = passwd.by_uid(identity.uid).map(|entry| entry.home.to_owned());
        Ok(Resolved { identity, home: home.filter(|home| home.starts_with('/')) })
    }
}

impl Named {
    pub(super) fn resolve(&self, passwd: &Passwd<'_>, group: &str) -> Result<Identity, Failure> {
        let (user, named_group) = match self.user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (self.user.as_str(), None),
        };
        let entry = match Who::parse(user)? {
            Who::Nobody => Ok(passwd.by_uid(0)),
            Who::Number(uid) => Ok(passwd.by_uid(uid)),
            Who::Name(name) => match passwd.by_name(name) {
                Some(entry) => Ok(Some(entry)),
                None => Err(invalid(user, "no such user in the image")),
            },
        }?;
        let uid = match (Who::parse(user)?, &entry) {
            (Who::Number(uid), _) => uid,
            (_, Some(entry)) => entry.uid,
            _ => 0,
        };
        let from_user = entry.as_ref().map_or(0, |entry| entry.gid);
        let gid = match (self.group, named_group.map(Who::parse).transpose()?) {
            (Some(gid), _) => checked(gid)?,
            (None, Some(Who::Number(gid))) => gid,
            (None, Some(Who::Name(name))) => {
                gid_of(group, name).ok_or_else(|| invalid(name, "no such group in the image"))?
            }
            (None, Some(Who::Nobody) | None) => from_user,
        };
        let mut groups = vec![gid];
        if let (false, Some(entry)) = (self.strict, &entry) {
            groups.extend(memberships(group, entry.name));
        }
        for supplemental in &self.supplemental {
            groups.push(checked(*supplemental)?);
        }
        // The primary group first, each once.
        let mut seen = Vec::with_capacity(groups.len());
        groups.retain(|gid| {
            let new = !seen.contains(gid);
            seen.push(*gid);
            new
        });
        Ok(Identity { uid, gid, groups })
    }
}

/// One half of `user:group`.
enum Who<'a> {
    Nobody,
    Number(u32),
    Name(&'a str),
}

impl<'a> Who<'a> {
    fn parse(text: &'a str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self::Nobody);
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse().ok().filter(|id| *id <= MAX_ID);
            return number.map(Self::Number).ok_or_else(|| invalid(text, "number out of range"));
        }
        let clean = |byte: u8| byte > b' ' && byte != b':' && byte != 0x7f;
        // What others take for a number must not be a name here: an image could give "-1" any number.
        let signed = text.starts_with(['+', '-']);
        if !signed && text.bytes().all(clean) {
            return Ok(Self::Name(text));
        }
        Err(invalid(&text.escape_default().to_string(), "not a user or group"))
    }
}

/// The lines of a passwd(5) file that are well formed.
pub(super) struct Passwd<'a> {
    text: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text }
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'a>> {
        self.text.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = id(fields.nth(1)?)?;
            let gid = id(fields.next()?)?;
            let home = fields.nth(1).unwrap_or_default();
            Some(Entry { name, uid, gid, home })
        })
    }

    fn by_uid(&self, uid: u32) -> Option<Entry<'a>> {
        self.entries().find(|entry| entry.uid == uid)
    }

    fn by_name(&self, name: &str) -> Option<Entry<'a>> {
        self.entries().find(|entry| entry.name == name)
    }
}

/// The lines of a group(5) file: name, gid, members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn gid_of(text: &str, wanted: &str) -> Option<u32> {
    groups(text).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid)
}

fn memberships<'a>(text: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    let is_member = move |members: &str| members.split(',').any(|member| member == user);
    groups(text).filter(move |(.., members)| is_member(members)).map(|(_, gid, _)| gid)
}

fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= MAX_ID)
}

fn checked(id: u32) -> Result<u32, Failure> {
    if id <= MAX_ID { Ok(id) } else { Err(invalid(&id.to_string(), "number out of range")) }
}

fn invalid(object: &str, cause: &'static str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "resolve user", object, cause)
}

/// The file's text; an image without one has no names. Bytes that are no text are in no line that counts.
fn read(root: &Root, path: &str) -> Result<String, Failure> {
    match root.read_file(Path::new(path), MAX_FILE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if matches!(error.errno(), Some(libc_errno::NOENT | libc_errno::NOTDIR)) => {
            Ok(String::new())
        }
        Err(error) => Err(target::invalid(Path::new(path), error)),
    }
}

mod libc_errno {
    pub(super) const NOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
    pub(super) const NOTDIR: i32 = rustix::io::Errno::NOTDIR.raw_os_error();
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        4294967296:x:0:0::/:/bin/sh\n\
        app:x:1000:100:App:/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,app\naudio:x:29:app\n";

    fn resolve(named: &Named) -> Result<Identity, Failure> {
        named.resolve(&Passwd::new(PASSWD), GROUP)
    }

    fn user(text: &str) -> Result<(u32, u32, Vec<u32>), Failure> {
        let named = Named { user: text.to_owned(), ..Named::default() };
        resolve(&named).map(|identity| (identity.uid, identity.gid, identity.groups))
    }

    #[test]
    fn strings_mean_what_an_images_user_means() {
        assert_eq!(user("").unwrap(), (0, 0, vec![0, 10]));
        assert_eq!(user("app").unwrap(), (1000, 100, vec![100, 10, 29]));
        assert_eq!(user("1000").unwrap(), (1000, 100, vec![100, 10, 29]));
        assert_eq!(user("1").unwrap(), (1, 0, vec![0]));
        assert_eq!(user("1:").unwrap(), (1, 0, vec![0]));
        assert_eq!(user("1:2").unwrap(), (1, 2, vec![2]));
        assert_eq!(user("app:wheel").unwrap(), (1000, 10, vec![10, 29]));
        assert_eq!(user("2147483647").unwrap().0, 2_147_483_647);
    }

    #[test]
    fn numbers_that_do_not_fit_and_things_that_are_no_names_are_refused() {
        let refused = [
            "4294967296",
            "4294967295",
            "2147483648",
            "9999999999999",
            "4294967296:0",
            "0:4294967296",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "nobody",
            "app:nogroup",
            "app:1:2",
            "a\nb",
            "a\0",
        ];
        for text in refused {
            assert_eq!(user(text).unwrap_err().kind, FailureKind::InvalidArgument, "{text:?}");
        }
    }

    #[test]
    fn a_strict_request_has_only_the_groups_it_names() {
        let named = Named {
            user: "app".to_owned(),
            group: Some(7),
            supplemental: vec![8, 7, 8],
            strict: true,
        };
        assert_eq!(resolve(&named).unwrap(), Identity { uid: 1000, gid: 7, groups: vec![7, 8] });
        let too_large = Named { supplemental: vec![u32::MAX], ..Named::default() };
        assert!(resolve(&too_large).is_err());
    }
}
