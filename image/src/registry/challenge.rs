//! `WWW-Authenticate`, as far as registries use it (RFC 9110, section 11.6.1).

/// What a server wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// Where a token is to be had and what it is for (distribution, "Token Authentication Specification").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

/// The challenges of one header value that we know, in order.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut reader = Reader { rest: header };
    let mut challenges = Vec::new();
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    while let Some(token) = reader.token() {
        if let Some(value) = reader.value() {
            if let Some((_, parameters)) = &mut current {
                parameters.push((token.to_ascii_lowercase(), value));
            }
        } else {
            challenges.extend(current.take().and_then(challenge));
            current = Some((token.to_ascii_lowercase(), Vec::new()));
        }
    }
    challenges.extend(current.and_then(challenge));
    challenges
}

fn challenge((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let find = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let (realm, service, scope) = (find("realm")?, find("service"), find("scope"));
            Some(Challenge::Bearer(Bearer { realm, service, scope }))
        }
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// The next scheme or parameter name.
    fn token(&mut self) -> Option<String> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
        let start = self.rest.find(is_token)?;
        let rest = &self.rest[start..];
        let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        self.rest = &rest[end..];
        Some(rest[..end].to_owned())
    }

    /// What follows a `=`: a token, or a quoted string with its escapes undone.
    fn value(&mut self) -> Option<String> {
        let rest = self.rest.trim_start().strip_prefix('=')?.trim_start();
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find([',', ' ', '\t']).unwrap_or(rest.len());
            self.rest = &rest[end..];
            return Some(rest[..end].to_owned());
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        self.rest = "";
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_challenges_are_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let bearer = Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(parse(hub), [Challenge::Bearer(bearer)]);
        assert_eq!(parse("Basic realm=\"x\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
    }

    #[test]
    fn several_challenges_and_odd_spacing_are_understood() {
        let both =
            parse(r#"Negotiate, Basic realm = "a, \"b\"" , BEARER service=s ,realm=https://x/y"#);
        assert_eq!(both.len(), 2);
        let Challenge::Bearer(bearer) = &both[1] else { panic!("{both:?}") };
        assert_eq!((bearer.realm.as_str(), bearer.service.as_deref()), ("https://x/y", Some("s")));
    }

    #[test]
    fn nonsense_ends() {
        for text in
            ["", "=", ",,,", "Bearer", "Bearer realm", "Bearer realm=\"", "\"", "Bearer =x=", "é=é"]
        {
            assert!(parse(text).is_empty() || text == "Bearer realm=\"", "{text}");
        }
    }
}
