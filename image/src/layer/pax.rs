//! PAX extended headers (POSIX.1-2024, pax, "pax Extended Header").

use super::LayerError;

/// Extended attributes of one entry, all together.
const MAX_XATTRS: usize = 1 << 20;
/// One value (linux/limits.h, XATTR_SIZE_MAX).
const MAX_XATTR: usize = 64 << 10;

/// The records that matter, as far as a header has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// GNU's sparse files, versions 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Clone, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// Offsets and lengths in turn.
    pub(super) map: Vec<u64>,
}

impl Pax {
    /// Adds the records of a header's body; a later record replaces an earlier one, an empty value takes it back.
    pub(super) fn read(&mut self, mut body: &[u8]) -> Result<(), LayerError> {
        while !body.is_empty() && body.iter().any(|b| *b != 0) {
            let (key, value, rest) =
                record(body).ok_or_else(|| LayerError::malformed("a malformed PAX record"))?;
            self.set(key, value).ok_or_else(|| {
                LayerError::malformed(format!("a malformed PAX value of {key:?}"))
            })?;
            body = rest;
        }
        let total: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total > MAX_XATTRS || self.xattrs.iter().any(|(_, value)| value.len() > MAX_XATTR) {
            return Err(LayerError::malformed(
                "an entry with more extended attributes than a file can have",
            ));
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Option<()> {
        let bytes = || Some(value.to_vec()).filter(|v| !v.is_empty());
        let number = || if value.is_empty() { Some(None) } else { decimal(value).map(Some) };
        match key {
            "path" => self.path = bytes(),
            "linkpath" => self.link = bytes(),
            "size" => self.size = number()?,
            "uid" => self.uid = number()?,
            "gid" => self.gid = number()?,
            "mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            "GNU.sparse.major" => self.sparse.major = number()?,
            "GNU.sparse.minor" => self.sparse.minor = number()?,
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.sparse.real_size = number()?,
            "GNU.sparse.name" => self.sparse.name = bytes(),
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            "GNU.sparse.map" => {
                self.sparse.map =
                    value.split(|b| *b == b',').map(decimal).collect::<Option<_>>()?;
            }
            key => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattrs.retain(|(n, _)| n != name);
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// Splits `length key=value\n` off; the length counts all of it.
fn record(body: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = body.iter().take(21).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&body[..space])?).ok()?;
    if length > body.len() || length <= space + 1 {
        return None;
    }
    let line = body[space + 1..length].strip_suffix(b"\n")?;
    let equals = line.iter().position(|b| *b == b'=')?;
    let key = std::str::from_utf8(&line[..equals])
        .ok()
        .filter(|key| !key.is_empty() && !key.contains('\0'))?;
    Some((key, &line[equals + 1..], &body[length..]))
}

/// An unsigned decimal number, nothing around it.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, also before 1970.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let magnitude = decimal(whole.strip_prefix('-').unwrap_or(whole).as_bytes())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    let seconds = i64::try_from(magnitude).unwrap_or(i64::MAX);
    match (whole.starts_with('-'), nanos) {
        (false, nanos) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        // timespec counts nanoseconds upwards from the second below.
        (true, nanos) => Some(((-seconds).saturating_sub(1), 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let length = (rest.len() + 1..).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
        format!("{length}{rest}").into_bytes()
    }

    #[test]
    fn records_are_read_and_the_last_one_counts() {
        let mut pax = Pax::default();
        let body =
            [line("path", "a\nb=c"), line("size", "12"), line("mtime", "-1.25"), line("path", "z")]
                .concat();
        pax.read(&body).unwrap();
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"z"[..]), Some(12)));
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
        pax.read(&line("path", "")).unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn attributes_keep_their_bytes() {
        let mut pax = Pax::default();
        pax.read(&line("SCHILY.xattr.user.x", "\u{1}\n\0=")).unwrap();
        assert_eq!(pax.xattrs, [("user.x".to_owned(), b"\x01\n\0=".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        let long = line("SCHILY.xattr.user.x", &"v".repeat(MAX_XATTR + 1));
        let cases: [&[u8]; 10] = [
            b"x",
            b"5 a=b\nrest",
            b"99999999999999999999 a=b\n",
            b"3 \n",
            b"6 a=b",
            b"6 aab\n",
            b"-6 a=b\n",
            b"10 size=x\n",
            b"12 mtime=1,2\n",
            &long,
        ];
        for case in cases {
            assert!(
                Pax::default().read(case).is_err(),
                "{:?}",
                String::from_utf8_lossy(&case[..case.len().min(40)])
            );
        }
    }
}
