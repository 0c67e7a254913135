//! What devices a request names: in CRI's field first, then in annotations, as device plugins did before there was one.

use std::collections::BTreeMap;

use proto::cri;

use super::DeviceName;

/// What the keys of such annotations begin with; the values are names with commas between them.
const PREFIX: &str = "cdi.k8s.io/";

/// More than any container has.
const MAX_DEVICES: usize = 1024;

/// All names, in this order, each once.
///
/// # Errors
/// Says which one is none.
pub fn names(
    field: &[cri::CdiDevice],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<DeviceName>, String> {
    let annotated = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(PREFIX))
        .flat_map(|(_, value)| value.split(','));
    let mut names = Vec::new();
    for text in field.iter().map(|device| device.name.as_str()).chain(annotated) {
        let name = DeviceName::parse(text)?;
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > MAX_DEVICES {
            return Err(format!("there are more than {MAX_DEVICES} CDI devices"));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_comes_first_and_nothing_twice() {
        let field = ["v.com/a=2", "v.com/a=1"].map(|name| cri::CdiDevice { name: name.into() });
        let annotations = [
            ("cdi.k8s.io/plugin", "v.com/a=1,v.com/b=3"),
            ("other", "nonsense"),
            ("cdi.k8s.io/again", "v.com/b=3"),
        ];
        let annotations: BTreeMap<String, String> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let found = names(&field, &annotations).unwrap();
        let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["v.com/a=2", "v.com/a=1", "v.com/b=3"]);
        assert!(names(&[cri::CdiDevice { name: "nonsense".into() }], &BTreeMap::new()).is_err());
        let empty = BTreeMap::from([("cdi.k8s.io/x".to_owned(), String::new())]);
        assert!(names(&[], &empty).is_err());
    }
}
