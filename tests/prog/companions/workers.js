// workers.js: Node's worker threads: a shared counter with Atomics.wait, messages, and the thread pool of libuv.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const fs = require('fs');

if (isMainThread) {
	const shared = new SharedArrayBuffer(8);
	const n = new Int32Array(shared);
	const workers = 4;
	let sum = 0, left = workers;

	for (let i = 0; i < workers; i++) {
		const w = new Worker(__filename, { workerData: { shared, i } });
		w.on('message', (v) => { sum += v; });
		w.on('exit', (code) => {
			if (code !== 0)
				process.exit(1);
			if (--left === 0) {
				fs.readFile(__filename, () => {
					if (n[0] !== workers * 50 || sum !== workers * 499500)
						process.exit(1);
					console.log('OK');
				});
			}
		});
	}
} else {
	const n = new Int32Array(workerData.shared);
	let s = 0;

	for (let k = 0; k < 50; k++) {
		while (Atomics.load(n, 0) % 4 !== workerData.i)
			Atomics.wait(n, 0, Atomics.load(n, 0), 1);
		Atomics.add(n, 0, 1);
		Atomics.notify(n, 0);
	}
	for (let k = 0; k < 1000; k++)
		s += k;
	parentPort.postMessage(s);
}
