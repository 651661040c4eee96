CREATE TABLE `collection_models` (
	`slug` text NOT NULL,
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`position` integer NOT NULL,
	PRIMARY KEY(`slug`, `owner`, `name`),
	FOREIGN KEY (`slug`) REFERENCES `collections`(`slug`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `collection_models_by_model` ON `collection_models` (`owner`,`name`);--> statement-breakpoint
CREATE TABLE `collections` (
	`slug` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`description` text NOT NULL,
	`full_description` text,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `deployments` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`release` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`)
);
--> statement-breakpoint
CREATE TABLE `examples` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`prediction_id` text NOT NULL,
	`document` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`, `prediction_id`)
);
--> statement-breakpoint
CREATE INDEX `examples_by_created` ON `examples` (`owner`,`name`,`created_at`,`prediction_id`);--> statement-breakpoint
CREATE TABLE `members` (
	`organization_id` text NOT NULL,
	`account_id` text NOT NULL,
	`role` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`organization_id`, `account_id`),
	FOREIGN KEY (`organization_id`) REFERENCES `accounts`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`account_id`) REFERENCES `accounts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `members_by_account` ON `members` (`account_id`);--> statement-breakpoint
CREATE TABLE `prices` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`unit` text NOT NULL,
	`price_micros` integer NOT NULL,
	`valid_from` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`, `unit`, `valid_from`)
);
--> statement-breakpoint
CREATE TABLE `releases` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`number` integer NOT NULL,
	`model` text NOT NULL,
	`version` text NOT NULL,
	`hardware` text NOT NULL,
	`min_instances` integer NOT NULL,
	`max_instances` integer NOT NULL,
	`created_at` integer NOT NULL,
	`created_by` text NOT NULL,
	PRIMARY KEY(`owner`, `name`, `number`)
);
--> statement-breakpoint
CREATE TABLE `shares` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`account_id` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`, `account_id`)
);
--> statement-breakpoint
CREATE INDEX `shares_by_account` ON `shares` (`account_id`);--> statement-breakpoint
DROP INDEX `models_by_created`;--> statement-breakpoint
DROP INDEX `models_by_version_at`;--> statement-breakpoint
ALTER TABLE `models` ADD `github_url` text;--> statement-breakpoint
ALTER TABLE `models` ADD `paper_url` text;--> statement-breakpoint
ALTER TABLE `models` ADD `license_url` text;--> statement-breakpoint
ALTER TABLE `models` ADD `weights_url` text;--> statement-breakpoint
ALTER TABLE `models` ADD `cover_image_url` text;--> statement-breakpoint
ALTER TABLE `models` ADD `hardware` text;--> statement-breakpoint
ALTER TABLE `models` ADD `is_official` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `models` ADD `announced` text;--> statement-breakpoint
CREATE INDEX `models_by_updated` ON `models` (`updated_at`,`owner`,`name`);--> statement-breakpoint
CREATE INDEX `models_by_created` ON `models` (`created_at`,`owner`,`name`);--> statement-breakpoint
CREATE INDEX `models_by_version_at` ON `models` (`latest_version_at`,`owner`,`name`);--> statement-breakpoint
ALTER TABLE `tokens` ADD `name` text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE `tokens` ADD `allowed_models` text;--> statement-breakpoint
ALTER TABLE `tokens` ADD `created_by` text;--> statement-breakpoint
ALTER TABLE `tokens` ADD `last_used_at` integer;--> statement-breakpoint
ALTER TABLE `versions` ADD `base_version_id` text;--> statement-breakpoint
ALTER TABLE `versions` ADD `weights` text;--> statement-breakpoint
ALTER TABLE `versions` ADD `training_id` text;--> statement-breakpoint
ALTER TABLE `versions` ADD `fast_booting` integer DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE `versions` ADD `train_memory_bytes` integer;--> statement-breakpoint
ALTER TABLE `versions` ADD `run_by_others` integer DEFAULT false NOT NULL;