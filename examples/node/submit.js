// Publishes a task with nothing but amqplib and prints its answers.
import { text } from "node:stream/consumers";
import { connect } from "amqplib";

const ANSWERS = "amq.rabbitmq.reply-to"; // RabbitMQ's direct reply-to: no queue to make or delete

const connection = await connect(process.env.FLUFFLE_AMQP_URL);
const channel = await connection.createConfirmChannel();
const over = new Promise((resolve) => {
  channel.consume(ANSWERS, ({ content, properties }) => {
    const answer = JSON.parse(content);
    console.log(`${properties.type}:`, answer.result ?? answer.errors ?? answer.error ?? answer.id);
    if (properties.type !== "task.accepted") resolve();
  }, { noAck: true });
});

const task = { description: "Summarise the text in two sentences", inputs: { text: await text(process.stdin) } };
channel.publish("fluffle.tasks", "submit", Buffer.from(JSON.stringify(task)), {
  contentType: "application/json",
  persistent: true,
  replyTo: ANSWERS,
});
await channel.waitForConfirms();
await over;
await connection.close();
