//! The options of one mount, read once: attributes, propagation, and what is the file system's own.

use crate::{Failure, FailureKind};
use sys::mount::{
    ATIME_FIELD, Attributes, NO_ATIME, NO_DEV, NO_DIR_ATIME, NO_EXEC, NO_SUID, NO_SYMLINK_FOLLOW,
    Propagation, READ_ONLY, STRICT_ATIME,
};

/// A mount's options.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// Of the mount itself.
    pub attributes: Attributes,
    /// Of it and everything below (`rro` and its kin).
    pub recursive: Attributes,
    /// Asked explicitly, and whether for everything below too.
    pub propagation: Option<(Propagation, bool)>,
    /// A bind mount, and whether with everything below.
    pub bind: Option<bool>,
    /// A mapping of ids, and whether of everything below too.
    pub mapped: Option<bool>,
    /// A tmpfs that begins with what it covers.
    pub copy_up: bool,
    /// No new mount, but a change of the one that is there.
    pub remount: bool,
    /// The file system's own options.
    pub data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads the options of a mount whose spec stands for `target`.
    ///
    /// # Errors
    /// An option that this runtime knows but cannot do; unknown ones are the file system's.
    pub fn parse<'a>(
        options: impl IntoIterator<Item = &'a String>,
        target: &str,
    ) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for option in options {
            if option.contains('\0') {
                let kind = FailureKind::InvalidArgument;
                return Err(Failure::new(kind, "mount", target, "an option contains a zero byte"));
            }
            if !(parsed.whole(option) || parsed.attribute(option) || parsed.tree_option(option)) {
                parsed.own(option);
            }
        }
        Ok(parsed)
    }

    /// What kind of mount it is to be.
    fn whole(&mut self, option: &str) -> bool {
        match option {
            "idmap" => self.mapped = Some(self.mapped.unwrap_or(false)),
            "ridmap" => self.mapped = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            _ => return false,
        }
        true
    }

    /// `ro`, `nosuid`, … and, with an `r` in front, the same for the whole tree.
    fn attribute(&mut self, option: &str) -> bool {
        if let Some((bit, on)) = attribute_bit(option) {
            change(&mut self.attributes, bit, on);
            return true;
        }
        match option.strip_prefix('r').and_then(attribute_bit) {
            // "ro" and "rw" are words of their own; a recursive one has both letters ("rro", "rrw").
            Some((bit, on)) => {
                change(&mut self.recursive, bit, on);
                true
            }
            None => false,
        }
    }

    fn tree_option(&mut self, option: &str) -> bool {
        let (propagation, recursive) = match option {
            "bind" => {
                self.bind = Some(self.bind.unwrap_or(false));
                return true;
            }
            "rbind" => {
                self.bind = Some(true);
                return true;
            }
            "private" => (Propagation::Private, false),
            "rprivate" => (Propagation::Private, true),
            "slave" => (Propagation::Slave, false),
            "rslave" => (Propagation::Slave, true),
            "shared" => (Propagation::Shared, false),
            "rshared" => (Propagation::Shared, true),
            "unbindable" => (Propagation::Unbindable, false),
            "runbindable" => (Propagation::Unbindable, true),
            _ => return false,
        };
        self.propagation = Some((propagation, recursive));
        true
    }

    fn own(&mut self, option: &str) {
        // These say nothing: they are what happens without them.
        const SILENT: [&str; 11] = [
            "defaults",
            "async",
            "nomand",
            "norelatime",
            "rnorelatime",
            "loud",
            "silent",
            "nolazytime",
            "iversion",
            "noiversion",
            "",
        ];
        if SILENT.contains(&option) {
            return;
        }
        self.data.push(match option.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (option.to_owned(), None),
        });
    }
}

/// The attribute that a word turns on or off. The access time words set one field: its bits never stand alone.
fn attribute_bit(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (READ_ONLY, true),
        "rw" => (READ_ONLY, false),
        "nosuid" => (NO_SUID, true),
        "suid" => (NO_SUID, false),
        "nodev" => (NO_DEV, true),
        "dev" => (NO_DEV, false),
        "noexec" => (NO_EXEC, true),
        "exec" => (NO_EXEC, false),
        "nodiratime" => (NO_DIR_ATIME, true),
        "diratime" => (NO_DIR_ATIME, false),
        "nosymfollow" => (NO_SYMLINK_FOLLOW, true),
        "symfollow" => (NO_SYMLINK_FOLLOW, false),
        "noatime" => (NO_ATIME, true),
        "atime" => (NO_ATIME, false),
        "strictatime" => (STRICT_ATIME, true),
        "nostrictatime" => (STRICT_ATIME, false),
        "relatime" => (0, true),
        _ => return None,
    })
}

fn change(attributes: &mut Attributes, bit: u64, on: bool) {
    if bit & ATIME_FIELD != 0 || bit == 0 {
        // The kernel wants the whole field cleared before another value is set (mount_setattr(2)).
        attributes.clear |= ATIME_FIELD;
        attributes.set = attributes.set & !ATIME_FIELD | if on { bit } else { 0 };
        return;
    }
    // The last word counts.
    let (add, remove) = if on {
        (&mut attributes.set, &mut attributes.clear)
    } else {
        (&mut attributes.clear, &mut attributes.set)
    };
    *add |= bit;
    *remove &= !bit;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Options {
        let options: Vec<String> = options.split(',').map(str::to_owned).collect();
        Options::parse(&options, "/x").unwrap()
    }

    #[test]
    fn the_last_word_about_an_attribute_counts() {
        assert_eq!(parse("ro,rw").attributes.set, 0);
        assert_eq!(parse("rw,ro,nosuid").attributes.set, READ_ONLY | NO_SUID);
        let relatime = parse("noatime,relatime").attributes;
        assert_eq!((relatime.set, relatime.clear), (0, ATIME_FIELD));
    }

    #[test]
    fn recursive_words_are_not_the_plain_ones() {
        let options = parse("rbind,rro,ro,rnosuid,rslave");
        assert_eq!(options.recursive.set, READ_ONLY | NO_SUID);
        assert_eq!(options.attributes.set, READ_ONLY);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.propagation, Some((Propagation::Slave, true)));
        assert_eq!(options.data, Vec::new());
    }

    #[test]
    fn what_is_not_known_is_the_file_systems() {
        let data = parse("nosuid,size=64k,newinstance,mode=755").data;
        let own = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let size = own("size", Some("64k"));
        assert_eq!(data, [size, own("newinstance", None), own("mode", Some("755"))]);
    }

    #[test]
    fn words_about_the_whole_mount_are_not_the_file_systems() {
        let options = parse("rbind,idmap,ridmap,remount,tmpcopyup,rnorelatime,silent");
        assert_eq!((options.mapped, options.remount, options.copy_up), (Some(true), true, true));
        assert_eq!(options.data, Vec::new());
    }
}
