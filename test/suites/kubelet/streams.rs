//! What kubectl does, asked of the kubelet itself: commands, terminals, attached processes, forwarded ports, over SPDY.

use std::time::Duration;

use e2e::kubelet::manifest::{pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::stream::{Frame, Spdy};
use e2e::together;
use serde_json::{Value, json};

/// The protocol of commands.
const COMMANDS: &str = "v4.channel.k8s.io";
/// The protocol of forwarded ports.
const PORTS: &str = "portforward.k8s.io";

pub fn tests() -> Vec<Test> {
    together![
        a_command_is_run_and_its_output_comes_back,
        a_command_gets_its_input_and_tells_its_exit_code,
        a_command_gets_a_terminal_that_can_be_resized,
        a_running_process_is_attached_to,
        a_port_of_the_pod_is_forwarded,
    ]
}

/// Asks the kubelet for streams.
async fn streams(stage: &Stage, path: &str, protocol: &str) -> Spdy {
    let wire = stage.kubelet.api.connect().await.unwrap();
    Spdy::over(Box::new(wire), path, protocol).await
}

async fn a_command_is_run_and_its_output_comes_back(stage: &Stage) {
    stage.kubelet.apply(&pod("run", &[server("main", "")]));
    stage.kubelet.until("run", "ready", ready).await;
    let answer = stage.kubelet.api.post("/run/default/run-node/main?cmd=echo%20one%20two").await;
    assert_eq!(answer.unwrap(), "one two\n");
}

async fn a_command_gets_its_input_and_tells_its_exit_code(stage: &Stage) {
    stage.kubelet.apply(&pod("command", &[server("main", "")]));
    stage.kubelet.until("command", "ready", ready).await;
    let script = "command=sh&command=-c&command=cat%3B%20echo%20bad%20%3E%262%3B%20exit%209";
    let path = format!("/exec/default/command-node/main?input=1&output=1&error=1&{script}");
    let mut client = streams(stage, &path, COMMANDS).await;
    let kinds = ["error", "stdin", "stdout", "stderr"];
    let numbers = client.command(&kinds).await;
    client.data(numbers["stdin"], b"what I said", true).await.unwrap();
    let all = client.rest().await;
    assert_eq!(all[&numbers["stdout"]], b"what I said");
    assert_eq!(all[&numbers["stderr"]], b"bad\n");
    let status: Value = serde_json::from_slice(&all[&numbers["error"]]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "9", "{status}");
}

async fn a_command_gets_a_terminal_that_can_be_resized(stage: &Stage) {
    stage.kubelet.apply(&pod("resizing", &[server("main", "")]));
    stage.kubelet.until("resizing", "ready", ready).await;
    let path = "/exec/default/resizing-node/main?input=1&output=1&tty=1&command=sh";
    let mut client = streams(stage, path, COMMANDS).await;
    let numbers = client.command(&["error", "stdin", "stdout", "resize"]).await;
    for (width, height) in [(77, 33), (101, 42)] {
        let size = json!({ "Width": width, "Height": height }).to_string();
        client.data(numbers["resize"], size.as_bytes(), false).await.unwrap();
        // The size arrives on a stream of its own.
        let line = format!("until stty size | grep '{height} {width}'; do sleep 0.1; done\n");
        client.data(numbers["stdin"], line.as_bytes(), false).await.unwrap();
        client.until(numbers["stdout"], &format!("\n{height} {width}")).await;
    }
    client.data(numbers["stdin"], b"exit\n", false).await.unwrap();
    let all = client.rest().await;
    let status: Value = serde_json::from_slice(&all[&numbers["error"]]).unwrap();
    assert_eq!(status["status"], "Success");
}

async fn a_running_process_is_attached_to(stage: &Stage) {
    let mut main = shell("main", "while read line; do echo \"got $line\"; done; echo over");
    main["stdin"] = json!(true);
    stage.kubelet.apply(&pod("attached", &[main]));
    stage.kubelet.until("attached", "ready", ready).await;
    let path = "/attach/default/attached-node/main?input=1&output=1&error=1";
    let mut client = streams(stage, path, COMMANDS).await;
    let numbers = client.command(&["error", "stdin", "stdout", "stderr"]).await;
    for word in ["one", "two"] {
        client.data(numbers["stdin"], format!("{word}\n").as_bytes(), false).await.unwrap();
        client.until(numbers["stdout"], &format!("got {word}\n")).await;
    }
    let log = stage.kubelet.api.text("/containerLogs/default/attached-node/main").await;
    assert_eq!(log, "got one\ngot two\n");
}

async fn a_port_of_the_pod_is_forwarded(stage: &Stage) {
    let script = "mkdir /tmp/www; echo through the port >/tmp/www/index.html; \
         httpd -p 127.0.0.1:8080 -h /tmp/www";
    stage.kubelet.apply(&pod("forwarded", &[server("main", script)]));
    stage.kubelet.until("forwarded", "ready", ready).await;
    let mut client = streams(stage, "/portForward/default/forwarded-node", PORTS).await;
    for request in ["0", "1", "2"] {
        let headers = |kind| [("streamtype", kind), ("port", "8080"), ("requestid", request)];
        let errors = client.open(&headers("error")).await.unwrap();
        client.reply(errors).await;
        let data = client.open(&headers("data")).await.unwrap();
        client.reply(data).await;
        client.data(data, b"GET / HTTP/1.0\r\n\r\n", true).await.unwrap();
        let page = client.until(data, "through the port\n").await;
        assert!(page.contains("200 OK"), "{page}");
    }
    // A port where nobody listens is an error of its stream, and the session goes on.
    let headers = |kind| [("streamtype", kind), ("port", "9"), ("requestid", "9")];
    let errors = client.open(&headers("error")).await.unwrap();
    client.reply(errors).await;
    let data = client.open(&headers("data")).await.unwrap();
    client.reply(data).await;
    let refused = async {
        loop {
            if let Frame::Data { stream, bytes, .. } = client.frame().await.unwrap()
                && stream == errors
                && !bytes.is_empty()
            {
                return String::from_utf8_lossy(&bytes).into_owned();
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert!(refused.contains("9"), "{refused}");
}
