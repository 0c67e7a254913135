//! The built-in network, as pods see it.

#![allow(clippy::unwrap_used)]

mod isolation;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cni::{Network, NetworkError, PodCidr, PortMapping, Protocol};
use isolation::{Node, eventually, isolated, links, ping, run};

#[test]
fn two_pods_reach_each_other_and_nothing_is_left_of_them() {
    isolated("two_pods_reach_each_other_and_nothing_is_left_of_them", |node| async move {
        let before = links();
        let network = node.open();
        let (a, b) = (node.pod("aa"), node.pod("bb"));
        let (at, bt) = (network.attach(&a).await.unwrap(), network.attach(&b).await.unwrap());
        assert_eq!(
            (at.ips[0].to_string(), bt.ips[0].to_string()),
            ("10.88.0.2".into(), "10.88.0.3".into())
        );
        assert!(ping(&a.netns, "10.88.0.3") && ping(&b.netns, "10.88.0.2"));
        assert!(ping(&a.netns, "10.88.0.1"), "the gateway answers");
        assert!(ping(&a.netns, "127.0.0.1"), "the loopback is up");
        assert_eq!(network.attached(), ["aa", "bb"]);
        assert_eq!(network.attachment("aa"), Some(at));
        let status = network.status().await;
        assert!(status.ready && status.plugin == "bridge (built in)", "{status:?}");

        for link in ["wherry0", "wh-aa"] {
            let ra = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"));
            assert_eq!(ra.unwrap_or("0".into()).trim(), "0", "{link}");
        }
        assert!(run("ip", &["-d", "link", "show", "wh-aa"]).contains("hairpin on"));
        let rules = run("nft", &["list", "ruleset"]);
        let rule =
            "ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 oifname != \"wherry0\" masquerade";
        assert!(rules.contains(rule), "{rules}");
        assert!(
            rules.contains("type nat hook postrouting priority srcnat; policy accept;"),
            "{rules}"
        );

        for id in ["aa", "bb"] {
            let netns = node.bare(id).netns;
            network.detach(id, Some(&netns)).await.unwrap();
            network.detach(id, Some(&netns)).await.unwrap();
            node.unpin(id);
        }
        assert!(network.attached().is_empty());
        network.teardown_node().await.unwrap();
        network.teardown_node().await.unwrap();
        eventually("the links are gone", || links() == before);
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn a_pod_reaches_the_outside_under_the_nodes_address() {
    isolated("a_pod_reaches_the_outside_under_the_nodes_address", |node| async move {
        // An outside that knows no way back to the pods.
        let outside = node.pod("outside").netns;
        let path = outside.to_str().unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "wan"]);
        run("nsenter", &[&format!("--net={path}"), "true"]);
        run("mkdir", &["-p", "/run/netns"]);
        run("touch", &["/run/netns/outside"]);
        run("mount", &["--bind", path, "/run/netns/outside"]);
        run("ip", &["link", "set", "wan", "netns", "outside"]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "uplink"]);
        run("ip", &["link", "set", "uplink", "up"]);
        run("ip", &["-n", "outside", "addr", "add", "192.0.2.2/24", "dev", "wan"]);
        run("ip", &["-n", "outside", "link", "set", "wan", "up"]);

        let network = node.open();
        let pod = node.pod("aa");
        network.attach(&pod).await.unwrap();
        assert!(ping(&pod.netns, "192.0.2.2"));
        run("nft", &["flush", "table", "ip", "wherry"]);
        assert!(!ping(&pod.netns, "192.0.2.2"), "it was the rule");
        // A new run of the daemon sets right what it finds, and finds one rule, not two.
        let network = node.open();
        network.attach(&node.pod("bb")).await.unwrap();
        let network = node.open();
        network.attach(&node.pod("cc")).await.unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]).matches("masquerade").count(), 1);
        assert!(ping(&pod.netns, "192.0.2.2"));
        run("umount", &["/run/netns/outside"]);
        for id in ["aa", "bb", "cc", "outside"] {
            network.detach(id, None).await.unwrap();
            node.unpin(id);
        }
    });
}

#[test]
fn a_restarted_node_keeps_its_leases_and_frees_what_nobody_knows() {
    isolated("a_restarted_node_keeps_its_leases_and_frees_what_nobody_knows", |node| async move {
        let network = node.open();
        let pods = [node.pod("aa"), node.pod("bb"), node.pod("cc")];
        network.attach(&pods[0]).await.unwrap();
        network.attach(&pods[1]).await.unwrap();
        drop(network);

        let network = node.open();
        assert_eq!(network.attached(), ["aa", "bb"]);
        assert_eq!(network.attachment("bb").unwrap().ips[0].to_string(), "10.88.0.3");
        let again = network.attach(&pods[0]).await.unwrap_err();
        assert!(matches!(again, NetworkError::AlreadyAttached { .. }), "{again}");
        assert_eq!(network.attach(&pods[2]).await.unwrap().ips[0].to_string(), "10.88.0.4");
        assert!(ping(&pods[2].netns, "10.88.0.2"));

        // Detached while its namespace lives on: the address rests.
        network.detach("bb", Some(&pods[1].netns)).await.unwrap();
        let next = network.attach(&node.pod("dd")).await.unwrap();
        assert_eq!(next.ips[0].to_string(), "10.88.0.5");
        node.unpin("aa");
        network.retain(&["cc".to_owned(), "dd".to_owned()]).await.unwrap();
        assert_eq!(network.attached(), ["cc", "dd"]);
        for id in ["bb", "cc", "dd"] {
            network.detach(id, None).await.unwrap();
            node.unpin(id);
        }
    });
}

#[test]
fn a_failed_attach_leaves_no_link_no_address_and_no_record() {
    isolated("a_failed_attach_leaves_no_link_no_address_and_no_record", |node| async move {
        let network = node.open();
        let missing = network.attach(&node.bare("aa")).await.unwrap_err();
        assert!(missing.to_string().contains("open namespace"), "{missing}");
        // A namespace that has an eth0 already refuses a second one.
        let pod = node.pod("bb");
        sys::netns::inside(&pod.netns, || {
            run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "eth9"])
        })
        .unwrap();
        let taken = network.attach(&pod).await.unwrap_err();
        assert!(taken.to_string().contains("make link wh-bb"), "{taken}");
        // One whose address cannot be set has had its link made, and taken back.
        let pod = node.pod("cc");
        sys::netns::inside(&pod.netns, || {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["route", "add", "default", "dev", "lo"])
        })
        .unwrap();
        let route = network.attach(&pod).await.unwrap_err();
        assert!(route.to_string().contains("set default route"), "{route}");
        assert!(network.attached().is_empty());
        assert!(!links().iter().any(|link| link.starts_with("wh-")), "{:?}", links());
        assert_eq!(fs::read_dir(node.dir.join("state/attachments")).unwrap().count(), 0);
        for id in ["bb", "cc"] {
            node.unpin(id);
        }
    });
}

#[test]
fn a_bridge_that_was_removed_is_made_again_and_a_foreign_link_is_left_alone() {
    isolated(
        "a_bridge_that_was_removed_is_made_again_and_a_foreign_link_is_left_alone",
        |node| async move {
            let network = node.open();
            let (a, b) = (node.pod("aa"), node.pod("bb"));
            network.attach(&a).await.unwrap();
            network.detach("aa", Some(&a.netns)).await.unwrap();
            run("ip", &["link", "del", "wherry0"]);
            network.attach(&b).await.unwrap();
            assert!(ping(&b.netns, "10.88.0.1"));
            network.teardown_node().await.unwrap();
            run("ip", &["link", "add", "wherry0", "type", "veth", "peer", "name", "other"]);
            let refused = network.attach(&node.pod("cc")).await.unwrap_err();
            assert!(refused.to_string().contains("not a bridge"), "{refused}");
            assert!(network.teardown_node().await.is_err());
            assert!(links().contains(&"wherry0".to_owned()));
            for id in ["aa", "bb", "cc"] {
                network.detach(id, None).await.unwrap();
                node.unpin(id);
            }
        },
    );
}

#[test]
fn many_pods_at_once_get_an_address_each_also_when_their_callers_leave() {
    isolated(
        "many_pods_at_once_get_an_address_each_also_when_their_callers_leave",
        |node| async move {
            let network = node.open();
            let pods: Vec<_> = (0..20).map(|n| node.pod(&format!("p{n}"))).collect();
            let tasks: Vec<_> = pods
                .iter()
                .cloned()
                .map(|pod| {
                    let network = network.clone();
                    tokio::spawn(async move { network.attach(&pod).await.unwrap().ips[0] })
                })
                .collect();
            let mut ips = Vec::new();
            for task in tasks {
                ips.push(task.await.unwrap());
            }
            ips.sort_unstable();
            ips.dedup();
            assert_eq!(ips.len(), 20);

            let mut late = node.pod("late");
            late.port_mappings = vec![PortMapping {
                protocol: Protocol::Tcp,
                container_port: 80,
                host_port: 8080,
                host_ip: None,
            }];
            let left = tokio::time::timeout(Duration::from_nanos(1), network.attach(&late)).await;
            assert!(left.is_err());
            // The detach takes its turn after the attach that nobody waits for.
            network.detach("late", Some(&late.netns)).await.unwrap();
            assert!(!network.attached().contains(&"late".to_owned()));
            for id in network.attached() {
                network.detach(&id, None).await.unwrap();
                node.unpin(&id);
            }
            node.unpin("late");
        },
    );
}

#[test]
fn a_broken_configuration_is_not_replaced_by_the_built_in_network() {
    isolated("a_broken_configuration_is_not_replaced_by_the_built_in_network", |node| async move {
        node.write_conf(
            "10-evil.conflist",
            r#"{"cniVersion":"1.0.0","name":"evil","plugins":[{"type":"../../sbin/reboot"}]}"#,
        );
        let network = node.open();
        let status = network.status().await;
        assert!(!status.ready && status.message.contains("../../sbin/reboot"), "{status:?}");
        assert_eq!(status.reason, "NetworkPluginNotReady");
        let refused = network.attach(&node.pod("aa")).await.unwrap_err();
        assert!(matches!(refused, NetworkError::InvalidConfig { .. }), "{refused}");
        assert!(network.attached().is_empty() && !links().contains(&"wherry0".to_owned()));
        node.unpin("aa");
    });
}

const VICTIM: &str = "WHERRY_TEST_VICTIM";

/// Lets pods come and go until it is killed; part of the test below.
#[test]
#[ignore = "run by another test"]
fn pods_come_and_go_until_killed() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let node = Node { dir: PathBuf::from(dir) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let network = node.open();
        for n in 0u64.. {
            let id = format!("v{}", n % 3);
            network.attach(&node.pod(&id)).await.unwrap();
            network.detach(&id, None).await.unwrap();
            node.unpin(&id);
        }
    });
}

#[test]
fn whenever_the_daemon_is_killed_the_next_one_clears_all_it_left() {
    isolated("whenever_the_daemon_is_killed_the_next_one_clears_all_it_left", |node| async move {
        node.open().attach(&node.pod("stays")).await.unwrap();
        let before = links();
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap().lines().count();
        let mounted = mounts();
        let mut found = 0;
        for round in 0..40u64 {
            let mut victim = Command::new(std::env::current_exe().unwrap())
                .args(["pods_come_and_go_until_killed", "--exact", "--include-ignored"])
                .env(VICTIM, &node.dir)
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(15_000 + round * 389));
            victim.kill().unwrap();
            assert_eq!(victim.wait().unwrap().signal(), Some(9));

            let network = node.open();
            found += network.attached().len() - 1;
            network.retain(&["stays".to_owned()]).await.unwrap();
            for id in ["v0", "v1", "v2"] {
                node.unpin(id);
            }
            assert_eq!(network.attached(), ["stays"]);
            assert_eq!(mounts(), mounted);
            let state = fs::read_dir(node.dir.join("state/attachments")).unwrap();
            let state: Vec<_> = state.map(|file| file.unwrap().file_name()).collect();
            assert_eq!(state, ["stays.json"], "round {round}");
        }
        println!("{found} of 40 kills left an attachment behind");
        eventually("the links are gone", || links() == before);
        node.open().detach("stays", None).await.unwrap();
        node.unpin("stays");
    });
}

#[test]
fn the_clusters_range_for_pods_is_taken_while_there_is_none() {
    isolated("the_clusters_range_for_pods_is_taken_while_there_is_none", |node| async move {
        let network = node.open();
        let (a, b, c) = (node.pod("aa"), node.pod("bb"), node.pod("cc"));
        assert_eq!(network.attach(&a).await.unwrap().ips[0].to_string(), "10.88.0.2");
        let range = "10.244.3.0/24".parse().unwrap();
        // Pods keep their addresses, and one network has one range.
        assert_eq!(network.set_pod_cidr(range).await.unwrap(), PodCidr::InUse);
        network.detach("aa", None).await.unwrap();
        assert_eq!(network.set_pod_cidr(range).await.unwrap(), PodCidr::Taken);
        assert_eq!(network.set_pod_cidr(range).await.unwrap(), PodCidr::Known);
        assert_eq!(network.attach(&b).await.unwrap().ips[0].to_string(), "10.244.3.2");
        assert!(ping(&b.netns, "10.244.3.1"));
        let addresses = run("ip", &["-4", "addr", "show", "wherry0"]);
        assert!(
            addresses.contains("10.244.3.1/24") && !addresses.contains("10.88."),
            "{addresses}"
        );
        // The next daemon is not told again.
        drop(network);
        let network = node.open();
        assert_eq!(network.attach(&c).await.unwrap().ips[0].to_string(), "10.244.3.3");
        assert!(ping(&c.netns, "10.244.3.2"));
        let mut config = node.config();
        config.bridge.follows_pod_cidr = false;
        let decided = Network::open(config).unwrap();
        assert_eq!(decided.set_pod_cidr(range).await.unwrap(), PodCidr::Configured);
    });
}
