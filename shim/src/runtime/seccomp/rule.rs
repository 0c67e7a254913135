//! What becomes of one system call: its rules, in the order in which they are asked.
//!
//! Rules of one call are ORed, the conditions of one rule ANDed. Which of two rules with different actions wins where
//! both are met is what libseccomp's users know: a rule without conditions wins over all others, the first of several;
//! of the others those that begin with a later argument, then equalities over the lesser over the greater, then by the
//! compared value, and what is left by the order in the profile. libseccomp arrives at this by sorting the levels of a
//! decision tree whose nodes compare 32 bits; [`order`] walks the same tree.

use oci_spec::runtime::LinuxSeccompOperator as Operator;

use super::bpf::{Assembler, Condition, Label};
use super::compare::Comparison;

/// Conditions, and what is returned when all of them are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// At most one for each argument, in the order of arguments.
    pub when: Vec<Comparison>,
    /// `SECCOMP_RET_*` with its data.
    pub action: u32,
}

/// What becomes of a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Always this.
    Always(u32),
    /// The first rule that is met, or the profile's default.
    FirstOf(Vec<Rule>),
}

/// Two rules with different actions, and the later one's conditions are those of the earlier one or the first of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Contradiction;

impl Decision {
    /// Takes the rules in the order of the profile.
    ///
    /// # Errors
    /// Two of them contradict each other.
    pub fn new(mut rules: Vec<Rule>, narrow: bool) -> Result<Self, Contradiction> {
        for rule in &mut rules {
            if narrow {
                rule.when.iter_mut().for_each(|one| *one = one.narrow());
            }
            rule.when.retain(|one| !one.is_void());
        }
        if let Some(always) = rules.iter().find(|rule| rule.when.is_empty()) {
            return Ok(Self::Always(always.action));
        }
        let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
        for rule in rules {
            if kept.iter().any(|known| rule.when.starts_with(&known.when)) {
                let same = |known: &Rule| known.when == rule.when && known.action != rule.action;
                if kept.iter().any(same) {
                    return Err(Contradiction);
                }
                // Never reached.
                continue;
            }
            let narrower = |known: &&Rule| known.when.starts_with(&rule.when);
            if kept.iter().filter(narrower).any(|known| known.action != rule.action) {
                return Err(Contradiction);
            }
            kept.push(rule);
        }
        if kept.len() > 1 {
            let keyed = kept.into_iter().map(|rule| (keys(&rule, narrow), rule)).collect();
            kept = order(keyed, 0);
        }
        Ok(Self::FirstOf(kept))
    }

    /// Writes the rules: on with `otherwise` when none of them is met.
    pub fn emit(&self, to: &mut Assembler, narrow: bool, otherwise: Label) -> Label {
        let rules = match self {
            Self::Always(action) => return Label::Return(*action),
            Self::FirstOf(rules) => rules,
        };
        rules.iter().rev().fold(otherwise, |next, rule| {
            let met = Label::Return(rule.action);
            rule.when.iter().rev().fold(met, |yes, one| one.emit(to, narrow, yes, next))
        })
    }
}

/// A node of the tree: what is compared there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    offset: u32,
    /// `None` with a mask, which makes it another comparison than one of the same value.
    test: Option<Condition>,
    mask: u32,
    value: u32,
}

/// A node on a rule's way, and what the rule asks there.
#[derive(Debug, Clone, Copy)]
struct Step {
    node: Node,
    operator: Operator,
}

/// A rule and its way through the tree.
type Keyed = (Vec<Step>, Rule);

/// The way of a rule through the tree.
fn keys(rule: &Rule, narrow: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for one in &rule.when {
        let operator = one.operator;
        let test = match operator {
            Operator::ScmpCmpMaskedEq => None,
            Operator::ScmpCmpEq | Operator::ScmpCmpNe => Some(Condition::Equal),
            Operator::ScmpCmpGt | Operator::ScmpCmpLe => Some(Condition::Greater),
            Operator::ScmpCmpGe | Operator::ScmpCmpLt => Some(Condition::GreaterOrEqual),
        };
        let [low, high] = one.words();
        let mut step = |word: super::compare::Word, test| {
            let node = Node { offset: word.offset, test, mask: word.mask, value: word.value };
            steps.push(Step { node, operator });
        };
        if !narrow {
            if matches!(test, Some(Condition::Greater | Condition::GreaterOrEqual)) {
                step(high, Some(Condition::Greater));
            }
            step(high, test.map(|_| Condition::Equal));
        }
        step(low, test);
    }
    steps
}

/// The order in which a walk through the tree, each level sorted, comes by the rules.
fn order(rules: Vec<Keyed>, depth: usize) -> Vec<Rule> {
    // The rules that go through the same node, in the order of their first; what ends here is a node of its own.
    let mut nodes: Vec<(Option<Step>, Vec<Keyed>)> = Vec::new();
    for rule in rules {
        let step = rule.0.get(depth).copied();
        let same = |other: &Option<Step>| match (other, &step) {
            (Some(other), Some(step)) => other.node == step.node,
            _ => false,
        };
        match nodes.iter_mut().find(|(other, _)| same(other)) {
            Some((_, members)) => members.push(rule),
            None => nodes.push((step, vec![rule])),
        }
    }
    nodes.sort_by_key(|(step, _)| step.as_ref().map(rank));
    let walk = |(step, members): (Option<Step>, Vec<_>)| match step {
        Some(_) if members.len() > 1 => order(members, depth + 1),
        _ => members.into_iter().map(|(_, rule)| rule).collect(),
    };
    nodes.into_iter().flat_map(walk).collect()
}

/// What comes first has the smallest.
fn rank(step: &Step) -> (std::cmp::Reverse<u32>, u8, u32) {
    let Node { offset, value, .. } = step.node;
    let (class, value) = match step.operator {
        Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => (0, !value),
        Operator::ScmpCmpLt | Operator::ScmpCmpLe => (1, value),
        Operator::ScmpCmpGt | Operator::ScmpCmpGe => (2, !value),
    };
    (std::cmp::Reverse(offset), class, value)
}
