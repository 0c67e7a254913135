//! kubectl's streams, each over WebSocket, which kubectl speaks today, and over SPDY.

use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::kubelet::cluster::{Kubectl, free_port};
use e2e::kubelet::manifest::{pod, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::kubectl;

pub fn tests() -> Vec<Test> {
    together![
        kubectl_exec_tells_output_and_exit_code,
        kubectl_exec_passes_input_through_whole,
        kubectl_exec_with_a_terminal_gives_a_terminal,
        kubectl_attach_talks_to_the_running_process,
        kubectl_cp_copies_there_and_back,
        kubectl_port_forward_reaches_a_server_in_the_pod,
    ]
}

/// Both ways for kubectl to stream.
fn both(stage: &Stage) -> [(&'static str, Kubectl); 2] {
    let kubectl = kubectl(stage);
    [("ws", kubectl.clone()), ("spdy", kubectl.spdy())]
}

async fn kubectl_exec_tells_output_and_exit_code(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.apply(&pod("exec", &[server("main", "")])).await;
    kubectl.ready("exec").await;
    for (way, kubectl) in both(stage) {
        let script = "echo to out; echo to err >&2; exit 7";
        let output = kubectl.output(&["exec", "exec", "--", "sh", "-c", script]).await;
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(7), "{way}: {out} {err}");
        assert_eq!(out, "to out\n", "{way}");
        assert!(err.starts_with("to err\n"), "{way}: {err}");
    }
}

async fn kubectl_exec_passes_input_through_whole(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.apply(&pod("input", &[server("main", "")])).await;
    kubectl.ready("input").await;
    let data: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
    for (way, kubectl) in both(stage) {
        let output = kubectl.fed(&["exec", "-i", "input", "--", "cat"], &data).await;
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{way}: {err}");
        assert!(output.stdout == data, "{way}: {} bytes came back", output.stdout.len());
    }
}

async fn kubectl_exec_with_a_terminal_gives_a_terminal(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.apply(&pod("terminal", &[server("main", "")])).await;
    kubectl.ready("terminal").await;
    for (way, kubectl) in both(stage) {
        // script(1) is the terminal that the user sits at.
        let exec = kubectl.command(&["exec", "-it", "terminal", "--", "sh"]);
        let exec = exec.as_std();
        let mut words = vec![exec.get_program().to_string_lossy().into_owned()];
        words.extend(exec.get_args().map(|word| word.to_string_lossy().into_owned()));
        let line = format!("stty rows 33 cols 77; exec {}", words.join(" "));
        let mut command = Command::new("script");
        for (key, value) in exec.get_envs() {
            command.env(key, value.unwrap());
        }
        command.args(["-qec", &line, "/dev/null"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut seen = String::new();
        expect(&mut stdout, &mut seen, "# ").await;
        stdin.write_all(b"tty && stty size && exit 5\n").await.unwrap();
        let status = timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).await.unwrap();
        seen += &String::from_utf8_lossy(&rest);
        assert!(seen.contains("/dev/pts/") && seen.contains("33 77"), "{way}: {seen}");
        assert_eq!(status.code(), Some(5), "{way}: {seen}");
    }
}

/// Reads until this has been said.
async fn expect(from: &mut (impl AsyncReadExt + Unpin), seen: &mut String, text: &str) {
    let mut buffer = [0; 4096];
    let read = async {
        while !seen.contains(text) {
            let count = from.read(&mut buffer).await.unwrap();
            assert!(count > 0, "it ended after {seen:?}");
            *seen += &String::from_utf8_lossy(&buffer[..count]);
        }
    };
    if timeout(Duration::from_secs(30), read).await.is_err() {
        panic!("no {text:?} in {seen:?}");
    }
}

async fn kubectl_attach_talks_to_the_running_process(stage: &Stage) {
    for (way, kubectl) in both(stage) {
        let name = format!("attach-{way}");
        let mut main = shell("main", "while read line; do echo \"got $line\"; done; echo over");
        main["stdin"] = json!(true);
        main["stdinOnce"] = json!(true);
        let mut pod = pod(&name, &[main]);
        pod["spec"]["restartPolicy"] = json!("Never");
        kubectl.apply(&pod).await;
        kubectl.ready(&name).await;
        let mut command = kubectl.command(&["attach", "-i", &name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut seen = String::new();
        stdin.write_all(b"one\n").await.unwrap();
        expect(&mut stdout, &mut seen, "got one\n").await;
        stdin.write_all(b"two\n").await.unwrap();
        expect(&mut stdout, &mut seen, "got two\n").await;
        drop(stdin);
        expect(&mut stdout, &mut seen, "over\n").await;
        timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
        let log = kubectl.run(&["logs", &name]).await;
        assert_eq!(log, "got one\ngot two\nover\n", "{way}");
    }
}

async fn kubectl_cp_copies_there_and_back(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.apply(&pod("copy", &[server("main", "")])).await;
    kubectl.ready("copy").await;
    let folder = stage.world.folder.join("copied");
    std::fs::create_dir_all(folder.join("there/deep")).unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    std::fs::write(folder.join("there/deep/file"), &data).unwrap();
    let there = folder.join("there").display().to_string();
    let back = folder.join("back").display().to_string();
    kubectl.run(&["cp", &there, "copy:/tmp/there"]).await;
    kubectl.run(&["cp", "copy:/tmp/there", &back]).await;
    assert!(std::fs::read(folder.join("back/deep/file")).unwrap() == data);
}

async fn kubectl_port_forward_reaches_a_server_in_the_pod(stage: &Stage) {
    let kubectl = kubectl(stage);
    let script = "mkdir /tmp/www; head -c 3000000 /dev/zero | tr '\\0' x >/tmp/www/index.html; \
         httpd -p 127.0.0.1:8080 -h /tmp/www";
    kubectl.apply(&pod("forward", &[server("main", script)])).await;
    kubectl.ready("forward").await;
    for (way, kubectl) in both(stage) {
        let port = free_port();
        let mut command =
            kubectl.command(&["port-forward", "pod/forward", &format!("{port}:8080")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut seen = String::new();
        expect(child.stdout.as_mut().unwrap(), &mut seen, "Forwarding from").await;
        // One connection after another, and some at the same time.
        let page = async || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer.iter().filter(|byte| **byte == b'x').count()
        };
        for _ in 0..2 {
            let (a, b, c) = timeout(Duration::from_secs(60), three(&page)).await.unwrap();
            assert!([a, b, c].iter().all(|count| *count >= 3_000_000), "{way}: {a} {b} {c}");
        }
        let start = Instant::now();
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(100)).await;
    }
}

async fn three(page: &impl AsyncFn() -> usize) -> (usize, usize, usize) {
    tokio::join!(page(), page(), page())
}
