// An AXI4-Lite master that makes one register access at a time for the host.
//
// A request is pending while `request != done`; `response` (and `rdata` of a read) belong to it when they are equal
// again. With `stall` at random, the address and the data of a write are offered at different times and in either
// order, and the answer is taken late.

`default_nettype none

module cosim_register_master (
    input  wire        clk,
    input  wire        rst,
    input  wire        stall,

    input  wire        request,
    output reg         done,
    input  wire        write,
    input  wire [11:0] address,
    input  wire [31:0] wdata,
    input  wire  [3:0] wstrb,
    output reg  [31:0] rdata,
    output reg   [1:0] response,

    output wire [11:0] axi_awaddr,
    output reg         axi_awvalid,
    input  wire        axi_awready,
    output wire [31:0] axi_wdata,
    output wire  [3:0] axi_wstrb,
    output reg         axi_wvalid,
    input  wire        axi_wready,
    input  wire  [1:0] axi_bresp,
    input  wire        axi_bvalid,
    output reg         axi_bready,
    output wire [11:0] axi_araddr,
    output reg         axi_arvalid,
    input  wire        axi_arready,
    input  wire [31:0] axi_rdata,
    input  wire  [1:0] axi_rresp,
    input  wire        axi_rvalid,
    output reg         axi_rready
);
    initial begin
        done = 0;
        rdata = 0;
        response = 0;
    end

    reg aw_sent, w_sent, ar_sent;
    reg phase;  // lets a stall fall on the address and not on the data, or the other way round

    assign axi_awaddr = address;
    assign axi_wdata  = wdata;
    assign axi_wstrb  = wstrb;
    assign axi_araddr = address;

    wire pending = request != done;
    wire answered = (axi_bvalid && axi_bready) || (axi_rvalid && axi_rready);

    always @(posedge clk) begin
        phase <= ~phase;

        if (axi_awvalid && axi_awready) axi_awvalid <= 0;
        if (axi_wvalid && axi_wready) axi_wvalid <= 0;
        if (axi_arvalid && axi_arready) axi_arvalid <= 0;
        axi_bready <= pending && write && !stall && !answered;
        axi_rready <= pending && !write && !stall && !answered;

        if (pending && !answered) begin
            if (write && !aw_sent && !(stall && phase)) begin
                axi_awvalid <= 1;
                aw_sent <= 1;
            end
            if (write && !w_sent && !(stall && !phase)) begin
                axi_wvalid <= 1;
                w_sent <= 1;
            end
            if (!write && !ar_sent && !stall) begin
                axi_arvalid <= 1;
                ar_sent <= 1;
            end
        end

        if (answered) begin
            done <= request;
            response <= write ? axi_bresp : axi_rresp;
            if (!write) rdata <= axi_rdata;
        end

        if (answered || rst) {aw_sent, w_sent, ar_sent} <= 0;
        if (rst) begin
            {axi_awvalid, axi_wvalid, axi_arvalid, axi_bready, axi_rready} <= 0;
            phase <= 0;
        end
    end
endmodule

`default_nettype wire
