//! Id mappings: which users and groups of the host a pod's are, as the kubelet says it, checked.

use proto::cri;
use serde::{Deserialize, Serialize};

/// The kernel takes no more ranges of a kind (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// Consecutive ids inside, and the host's behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one inside.
    pub container: u32,
    /// The first one of the host.
    pub host: u32,
    /// How many; never zero.
    pub length: u32,
}

impl IdRange {
    fn holds(&self, id: u32) -> bool {
        id.checked_sub(self.container).is_some_and(|offset| offset < self.length)
    }
}

/// A mapping of users and one of groups; neither is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMaps {
    /// Users.
    pub users: Vec<IdRange>,
    /// Groups.
    pub groups: Vec<IdRange>,
}

impl IdMaps {
    /// Reads the mappings of a mount; none when both lists are empty.
    ///
    /// # Errors
    /// Says which range is empty, too long or twice there, or that one kind is missing.
    pub fn parse(
        users: &[cri::IdMapping],
        groups: &[cri::IdMapping],
    ) -> Result<Option<Self>, String> {
        match (users.is_empty(), groups.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => {
                Ok(Some(Self { users: ranges("users", users)?, groups: ranges("groups", groups)? }))
            }
            _ => Err("users and groups have to be mapped together".into()),
        }
    }

    /// Reads what CRI says of a pod's user namespace; none when it is the node's.
    ///
    /// # Errors
    /// The mode is neither POD nor NODE, or there is not exactly one mapping of each kind that begins with 0.
    pub fn parse_pod(wire: Option<&cri::UserNamespace>) -> Result<Option<Self>, String> {
        let Some(wire) = wire else { return Ok(None) };
        let maps = Self::parse(&wire.uids, &wire.gids).map_err(user_namespace)?;
        match (cri::NamespaceMode::try_from(wire.mode), maps) {
            (Ok(cri::NamespaceMode::Node), None) => Ok(None),
            (Ok(cri::NamespaceMode::Node), Some(_)) => {
                Err(user_namespace("the node's own has no mappings".into()))
            }
            (Ok(cri::NamespaceMode::Pod), Some(maps)) => {
                let one = |ranges: &[IdRange]| matches!(ranges, [IdRange { container: 0, .. }]);
                if one(&maps.users) && one(&maps.groups) {
                    return Ok(Some(maps));
                }
                Err(user_namespace("exactly one range is supported, and it begins with 0".into()))
            }
            (Ok(cri::NamespaceMode::Pod), None) => Err(user_namespace("it has no mappings".into())),
            _ => Err(user_namespace(format!("mode {} is neither POD nor NODE", wire.mode))),
        }
    }

    /// The host's user and group behind the root inside, if both are mapped.
    #[must_use]
    pub fn root(&self) -> Option<(u32, u32)> {
        let find = |ranges: &[IdRange]| {
            ranges.iter().find(|range| range.container == 0).map(|range| range.host)
        };
        find(&self.users).zip(find(&self.groups))
    }

    /// Whether a user inside is mapped.
    #[must_use]
    pub fn has_user(&self, user: u32) -> bool {
        self.users.iter().any(|range| range.holds(user))
    }

    /// Whether a group inside is mapped.
    #[must_use]
    pub fn has_group(&self, group: u32) -> bool {
        self.groups.iter().any(|range| range.holds(group))
    }

    /// The wire's form, for a status.
    #[must_use]
    pub fn to_wire(&self) -> (Vec<cri::IdMapping>, Vec<cri::IdMapping>) {
        let list = |ranges: &[IdRange]| {
            let range = |range: &IdRange| cri::IdMapping {
                host_id: range.host,
                container_id: range.container,
                length: range.length,
            };
            ranges.iter().map(range).collect()
        };
        (list(&self.users), list(&self.groups))
    }
}

fn user_namespace(reason: String) -> String {
    format!("user namespace: {reason}")
}

fn ranges(kind: &str, wire: &[cri::IdMapping]) -> Result<Vec<IdRange>, String> {
    if wire.len() > MAX_RANGES {
        return Err(format!("{} ranges of {kind} are more than {MAX_RANGES}", wire.len()));
    }
    let mut ranges: Vec<IdRange> = Vec::with_capacity(wire.len());
    for &cri::IdMapping { container_id: container, host_id: host, length } in wire {
        let fits = |first: u32| {
            length > 0 && first.checked_add(length - 1).is_some_and(|last| last < u32::MAX)
        };
        let said = || format!("{kind} {container} to {host}, {length} of them");
        if !fits(container) || !fits(host) {
            return Err(format!("{}: no ids, or more than there are", said()));
        }
        let clash = |other: &IdRange| {
            let overlap = |one: u32, two: u32| {
                u64::from(one) < u64::from(two) + u64::from(other.length)
                    && u64::from(two) < u64::from(one) + u64::from(length)
            };
            overlap(container, other.container) || overlap(host, other.host)
        };
        if ranges.iter().any(clash) {
            return Err(format!("{}: some are mapped already", said()));
        }
        ranges.push(IdRange { container, host, length });
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping { host_id, container_id, length }
    }

    fn pod(mode: cri::NamespaceMode, ranges: &[cri::IdMapping]) -> Result<Option<IdMaps>, String> {
        let (uids, gids) = (ranges.to_vec(), ranges.to_vec());
        IdMaps::parse_pod(Some(&cri::UserNamespace { mode: mode.into(), uids, gids }))
    }

    #[test]
    fn a_pod_has_one_range_that_begins_with_zero() {
        use cri::NamespaceMode::{Container, Node, Pod, Target};
        let good = [range(0, 100_000, 65_536)];
        let maps = pod(Pod, &good).unwrap().unwrap();
        assert_eq!(maps.root(), Some((100_000, 100_000)));
        assert!(maps.has_group(5) && !maps.has_group(65_536));
        assert_eq!(maps.to_wire(), (good.to_vec(), good.to_vec()));
        assert_eq!((pod(Node, &[]), IdMaps::parse_pod(None)), (Ok(None), Ok(None)));
        let two = [range(0, 100_000, 10), range(10, 200_000, 10)];
        let refused = [
            pod(Pod, &[]),
            pod(Pod, &two),
            pod(Pod, &[range(1, 100_000, 65_536)]),
            pod(Pod, &[range(0, 100_000, 0)]),
            pod(Node, &good),
            pod(Container, &[]),
            pod(Container, &good),
            pod(Target, &[]),
        ];
        for (at, answer) in refused.iter().enumerate() {
            assert!(answer.is_err(), "{at}: {answer:?}");
        }
        let half = cri::UserNamespace { mode: Pod.into(), uids: good.to_vec(), gids: Vec::new() };
        assert!(IdMaps::parse_pod(Some(&half)).is_err());
    }

    #[test]
    fn ranges_that_are_empty_too_long_or_overlap_are_refused() {
        let parse = |ranges: &[cri::IdMapping]| IdMaps::parse(ranges, ranges);
        assert!(parse(&[range(0, 100_000, 10), range(10, 0, 1)]).is_ok());
        let wrong: [&[cri::IdMapping]; 6] = [
            &[range(0, 1, 0)],
            &[range(u32::MAX, 0, 1)],
            &[range(0, u32::MAX, 1)],
            &[range(0, 4_294_967_000, 4000)],
            &[range(0, 1000, 10), range(9, 5000, 1)],
            &[range(0, 1000, 10), range(50, 1009, 1)],
        ];
        for ranges in wrong {
            assert!(parse(ranges).is_err(), "{ranges:?}");
        }
        assert!(parse(&vec![range(0, 0, 1); 400]).is_err());
    }
}
