import { expect, test } from "bun:test";
import { createPace, MAX_WINDOW } from "../../../src/webhooks/pace.ts";

const middle = () => 0.5;

test("it begins with one attempt at a time, earns more, and loses half by a failure", () => {
  const pace = createPace(middle);
  expect(pace.room(0, 0)).toBe(1);
  for (let count = 0; count < 100; count++) pace.succeeded(10);
  expect(pace.room(0, 0)).toBe(MAX_WINDOW);
  expect(pace.room(MAX_WINDOW - 3, 0)).toBe(3);
  pace.failed(10, 0, 0);
  expect(pace.room(0, 0)).toBe(MAX_WINDOW / 2);
});

test("five failures in a row trip it: one probe each 30 s, 1 min, 2 min .. 10 min, until a success", () => {
  const pace = createPace(middle);
  for (let count = 0; count < 4; count++) pace.failed(10, 0, 0);
  expect(pace.room(0, 0)).toBe(1);
  let now = 0;
  for (const pauseS of [30, 60, 120, 240, 480, 600, 600]) {
    pace.failed(10, now, 0);
    // Others that were under way when it tripped change nothing.
    for (let count = 0; count < 20; count++) pace.failed(10, now + 1, 0);
    expect(pace.closedUntil()).toBe(now + pauseS * 1000);
    expect(pace.room(0, now + pauseS * 1000 - 1)).toBe(0);
    now += pauseS * 1000;
    expect(pace.room(0, now)).toBe(1);
    expect(pace.room(1, now)).toBe(0);
  }
  pace.succeeded(10);
  expect(pace.room(0, now)).toBe(2);
});

test("what the endpoint asks for is a pause, of ten minutes at most", () => {
  const pace = createPace(middle);
  pace.failed(10, 0, 60_000);
  expect(pace.room(0, 59_999)).toBe(0);
  expect(pace.room(0, 60_000)).toBe(1);
  pace.failed(10, 60_000, 86_400_000);
  expect(pace.closedUntil()).toBe(660_000);
});

test("it is slow until it has answered, and when it takes more than a second", () => {
  const pace = createPace(middle);
  expect(pace.isSlow()).toBe(true);
  pace.succeeded(20);
  expect(pace.isSlow()).toBe(false);
  pace.failed(15_000, 0, 0);
  expect(pace.isSlow()).toBe(true);
  for (let count = 0; count < 20; count++) pace.succeeded(20);
  expect(pace.isSlow()).toBe(false);
});
