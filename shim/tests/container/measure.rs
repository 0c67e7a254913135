//! What a container costs: times of the calls, and the shim's share of memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use serde_json::json;
use shim::{Bundle, ExecOptions};

use crate::harness::{Case, launcher};

const RUNNING: usize = 20;

fn rounds() -> usize {
    std::env::var("WHERRY_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// Prints the tables.
pub fn run() {
    flood();
    if std::env::var_os("WHERRY_LOG_ONLY").is_some() {
        return;
    }
    let mut times: Vec<(&str, Vec<Duration>)> =
        ["bundle", "launch", "create", "start", "exec", "kill+wait", "delete", "shutdown"]
            .map(|name| (name, Vec::new()))
            .into();
    for _ in 0..rounds() {
        round(&mut times);
    }
    println!("{:>10} {:>8} {:>8} {:>8}  ms of {}", "", "p10", "p50", "p90", rounds());
    for (name, times) in &mut times {
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1000.0;
        println!("{name:>10} {:8.3} {:8.3} {:8.3}", at(10), at(50), at(90));
    }
    execs();
    if std::env::var_os("WHERRY_NO_MEMORY").is_none() {
        memory();
    }
}

fn round(times: &mut [(&str, Vec<Duration>)]) {
    let mut case = Case::new("exec sleep 1000");
    // As in a pod: these namespaces are there already.
    for namespace in case.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        let file = match namespace["type"].as_str() {
            Some("network") => "net",
            Some("ipc") => "ipc",
            Some("uts") => "uts",
            _ => continue,
        };
        namespace["path"] = json!(format!("/proc/self/ns/{file}"));
    }
    let launcher = launcher();
    let mut column = times.iter_mut();
    let mut took = |lap: &mut Instant| {
        column.next().unwrap().1.push(lap.elapsed());
        *lap = Instant::now();
    };
    let spec: Spec = serde_json::from_value(case.spec.clone()).unwrap();
    let mut lap = Instant::now();
    let bundle = Bundle::create(&case.bundle_dir, &spec).unwrap();
    took(&mut lap);
    let shim = case.block(launcher.launch(&bundle)).unwrap();
    took(&mut lap);
    case.block(shim.create(case.options.clone())).unwrap();
    took(&mut lap);
    case.block(shim.start()).unwrap();
    took(&mut lap);
    case.adopt(shim.clone());
    assert_eq!(case.exec_args("x", json!(["/bin/true"])).unwrap().0, 0);
    took(&mut lap);
    case.block(shim.kill(9, true)).unwrap();
    case.block(shim.wait()).unwrap();
    took(&mut lap);
    case.block(shim.delete()).unwrap();
    took(&mut lap);
    case.block(shim.shutdown()).unwrap();
    took(&mut lap);
}

/// One exec after the other in the same container, without output: register, start, wait, delete.
fn execs() {
    let mut case = Case::new("exec sleep 1000");
    case.start();
    let shim = case.shim();
    let mut process = case.spec["process"].clone();
    process["args"] = json!(["/bin/true"]);
    let process: oci_spec::runtime::Process = serde_json::from_value(process).unwrap();
    let mut times: Vec<Duration> = (0..rounds() * 4)
        .map(|number| {
            let exec_id = format!("x{number}");
            let options = ExecOptions {
                exec_id: exec_id.clone(),
                process: process.clone(),
                stdin: None,
                stdout: None,
                stderr: None,
            };
            let began = Instant::now();
            case.block(async {
                shim.exec(options).await.unwrap();
                shim.start_exec(&exec_id).await.unwrap();
                assert_eq!(shim.wait_exec(&exec_id).await.unwrap().code, 0);
                shim.delete_exec(&exec_id).await.unwrap();
            });
            began.elapsed()
        })
        .collect();
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1000.0;
    let (first, p10, p50, p90) = (at(0), at(10), at(50), at(90));
    println!("{:>10} {p10:8.3} {p50:8.3} {p90:8.3}  fastest {first:.3}", "next execs");
}

/// How fast a container can write lines of some lengths with large writes, into a log in memory and on the disk.
fn flood() {
    const BYTES: usize = 64 << 20;
    const TIMES: usize = 12;
    let folder =
        std::env::var_os("WHERRY_LOG_DIR").map_or_else(|| "/dev/shm".into(), PathBuf::from);
    for length in [100, 1000, 4096, 16 << 10] {
        let command = "for n in $TIMES; do busybox dd if=/data bs=1M 2>/dev/null; done";
        let times: Vec<String> = (0..TIMES).map(|number| number.to_string()).collect();
        let mut case = Case::new(&command.replace("$TIMES", &times.join(" ")));
        let line = format!("{}\n", "x".repeat(length - 1));
        fs::write(case.image.join("data"), line.repeat(BYTES / length)).unwrap();
        let log = folder.join(format!("wherry-measure-{}.log", std::process::id()));
        case.options.log = Some(log.clone());
        let created = case.create().unwrap();
        let shim_pid = case.shim_pid(&created);
        let shim = case.shim();
        let began = Instant::now();
        case.block(shim.start()).unwrap();
        // A file system has no room for all of it: rotated as the kubelet does, but sooner.
        case.block(async {
            let wait = shim.wait();
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    exit = &mut wait => break assert_eq!(exit.unwrap().code, 0),
                    () = tokio::time::sleep(Duration::from_millis(100)) => {
                        fs::remove_file(&log).unwrap();
                        drop(shim.reopen_log().await);
                    }
                }
            }
        });
        let took = began.elapsed().as_secs_f64();
        drop(fs::remove_file(&log));
        // Others may use the processors too: the shim's own time does not depend on them.
        let schedule = fs::read_to_string(format!("/proc/{shim_pid}/schedstat")).unwrap();
        let busy = schedule.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9;
        let megabytes = (BYTES / length * length * TIMES) as f64 / 1e6;
        println!(
            "log of lines of {length:>5} bytes {:6.0} MB/s, {:6.0} MB per second of the shim's time",
            megabytes / took,
            megabytes / busy
        );
    }
}

fn memory() {
    let cases: Vec<(Case, u32)> = (0..RUNNING)
        .map(|_| {
            let mut case = Case::new("echo one; exec sleep 1000");
            let created = case.start();
            case.exec("x", "true");
            let shim = case.shim_pid(&created);
            (case, shim)
        })
        .collect();
    println!("\nmean of {RUNNING} shims, KiB");
    for field in ["Rss", "Pss", "Pss_Anon", "Pss_File", "Private_Dirty", "Private_Clean"] {
        let sum: u64 = cases.iter().map(|(_, pid)| rollup(*pid, field)).sum();
        println!("{field:>14} {:8.1}", sum as f64 / RUNNING as f64);
    }
    if std::env::var_os("WHERRY_SHIM_SMAPS").is_some() {
        println!("{}", fs::read_to_string(format!("/proc/{}/smaps", cases[0].1)).unwrap());
    }
    let path = launcher().path().to_owned();
    println!("binary {} KiB", fs::metadata(Path::new(&path)).unwrap().len() / 1024);
}

fn rollup(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
