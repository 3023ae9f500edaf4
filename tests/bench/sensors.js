// The load of tests/bench/sensors.py, for k6: requests leave at their rate whether the answers come or not.
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';

const rows = new SharedArray('rows', () => JSON.parse(open(__ENV.ROWS)));
const accepted = new Counter('accepted');
const duplicates = new Counter('duplicates');
const refused = new Counter('refused'); // answers other than 200
const batch = Number(__ENV.BATCH);
const started = Date.now() - 3600 * 1000;

const scenario = (name, rate) => ({
  executor: 'constant-arrival-rate',
  exec: name,
  rate,
  timeUnit: '1s',
  duration: `${__ENV.SECONDS}s`,
  preAllocatedVUs: 50,
  maxVUs: 200,
});

export const options = {
  scenarios: {
    readings: scenario('readings', Number(__ENV.READINGS) / batch),
    predictions: scenario('predictions', Number(__ENV.PREDICTIONS)),
  },
  // Named here, or k6 keeps no numbers of a scenario by itself.
  thresholds: Object.fromEntries(
    ['readings', 'predictions'].flatMap((name) => [
      [`http_req_duration{scenario:${name}}`, ['max>=0']],
      [`http_reqs{scenario:${name}}`, ['count>=0']],
      [`dropped_iterations{scenario:${name}}`, ['count>=0']],
    ]),
  ),
  summaryTrendStats: ['med', 'p(99)', 'max'],
  discardResponseBodies: false,
};

const parameters = { headers: { Authorization: `Bearer ${__ENV.TOKEN}`, 'Content-Type': 'application/json' } };

function ask(path, body) {
  const answer = http.post(`${__ENV.ADDRESS}${path}`, JSON.stringify(body), parameters);
  if (answer.status !== 200) refused.add(1);
  return answer;
}

export function readings() {
  const first = exec.scenario.iterationInTest * batch;
  const sent = [];
  for (let number = first; number < first + batch; number++) {
    const { values, failure } = rows[number % rows.length];
    const time = new Date(started + number).toISOString();
    sent.push({ key: `load-${number}`, sensor: 'shuttle', time, values, failure });
  }
  const answer = ask('/readings', { readings: sent });
  if (answer.status === 200) {
    accepted.add(answer.json('accepted'));
    duplicates.add(answer.json('duplicates'));
  }
}

export function predictions() {
  const { values } = rows[exec.scenario.iterationInTest % rows.length];
  ask('/predict', { readings: [{ sensor: 'shuttle', values }] });
}

export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify(data.metrics) };
}
